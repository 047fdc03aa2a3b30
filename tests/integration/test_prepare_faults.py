"""Preparation that is killed, runs out of disk, may not write, or meets a tampered store."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_tools.ingest import ingest
from data_tools.plan import PlanConfig
from data_tools.prepare import PrepareConfig, prepare
from stunet.errors import DataError
from stunet.io import spill
from stunet.io.store import open_store

MountDisk = Callable[..., Path]

ONE_MM = PrepareConfig(plan=PlanConfig(spacing_mm=(1.0, 1.0, 1.0)), holdout=1)
OPTIONS = ("holdout=1", "plan.spacing_mm=[1.0,1.0,1.0]")


def save_case(root: Path, case_id: str, seed: int) -> None:
    """A noisy scan of 40 x 44 x 48 voxels at 1.5 mm with two structures."""
    rng = np.random.default_rng(seed)
    label = np.zeros((48, 44, 40), np.uint8)
    label[8:30, 6:33, 5:20] = 1
    label[12:28, 10:30, 22:34] = 2
    image = rng.normal(100.0 * label, 30.0).astype(np.int16)
    for kind, array in (("images", image), ("labels", label)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        scan = nib.Nifti1Image(array, np.diag([1.5, 1.5, 1.5, 1.0]))
        nib.save(scan, root / kind / f"{case_id}.nii.gz")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number in range(5):
        save_case(tmp_path / "raw", f"case_{number}", number)
    names = {"background": 0, "liver": 1, "spleen": 2}
    (tmp_path / "raw" / "labels.json").write_text(json.dumps(names))
    return tmp_path / "raw"


def content(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def processes() -> Iterator[multiprocessing.context.ForkServerContext]:
    """Processes of a server of our own: the loader's workers need one with blocked signals."""
    forkserver._forkserver._stop()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_tools.prepare", "stunet.io.zarr_case"])
    yield context
    forkserver._forkserver._stop()


@pytest.mark.slow
def test_killed_at_random_moments_gives_the_same_bytes(
    raw: Path, tmp_path: Path, processes: multiprocessing.context.ForkServerContext
) -> None:
    def start(out: Path) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=prepare, args=(ingest(raw), out, ONE_MM))
        process.start()
        return process

    for name in ("warm", "undisturbed"):
        began = time.monotonic()
        undisturbed = start(tmp_path / name)
        undisturbed.join(timeout=60)
        usual_s = time.monotonic() - began
        assert undisturbed.exitcode == 0
    expected = content(tmp_path / "undisturbed")

    out, moments, within_writes = tmp_path / "store", random.Random(7), 0
    for attempt in range(9):
        process = start(out)
        if attempt % 3 == 0:  # while the arrays of a case are being written
            while process.is_alive() and not any((out / "cases").glob("*/.*.tmp/*/zarr.json")):
                pass
        else:
            time.sleep(moments.uniform(0.0, usual_s))
        process.kill()
        process.join(timeout=60)
        within_writes += any((out / "cases").glob("*/.*.tmp"))
        if process.exitcode == 0:
            assert content(out) == expected
            shutil.rmtree(out)
    assert within_writes > 0
    last = start(out)
    last.join(timeout=60)
    assert last.exitcode == 0
    assert content(out) == expected


def test_a_disk_that_fills_up(
    raw: Path, tmp_path: Path, mount_disk: MountDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content(prepare(ingest(raw), tmp_path / "undisturbed", ONE_MM))
    disk = mount_disk(tmp_path / "disk", "size=2m")
    out = disk / "store"
    with pytest.raises(DataError, match=r"of 5 cases failed: .*No space left on device") as caught:
        prepare(ingest(raw), out, ONE_MM)
    one_line(caught)
    assert not (out / "dataset.json").exists()
    assert list((out / "cases").glob("*/.*.tmp")) == []
    assert 0 < len(list((out / "cases").glob("*/*.row.json"))) < 5

    monkeypatch.setattr(spill, "IN_MEMORY_BYTES", 1000)
    with pytest.raises(DataError, match=r"temporary voxels do not fit") as caught:
        prepare(ingest(raw), out, ONE_MM)
    one_line(caught)
    mount_disk(disk, "size=60m")
    prepare(ingest(raw), out, ONE_MM)
    assert content(out) == expected
    assert {path.name for path in disk.iterdir()} == {"store"}


def test_a_folder_that_may_not_be_written(raw: Path, tmp_path: Path, mount_disk: MountDisk) -> None:
    disk = mount_disk(tmp_path / "disk", "ro")
    for out in (disk, disk / "store"):
        with pytest.raises(
            DataError, match=r"cannot be written \(Read-only file system\)"
        ) as caught:
            prepare(ingest(raw), out, ONE_MM)
        assert one_line(caught).startswith(f"{out}: ")
    with pytest.raises(DataError, match="cannot be written"):
        prepare(ingest(raw), raw / "labels.json" / "store", ONE_MM)


def test_a_store_of_a_newer_version_is_left_alone(raw: Path, tmp_path: Path) -> None:
    out = prepare(ingest(raw), tmp_path / "store", ONE_MM)
    record = json.loads((out / "dataset.json").read_text())
    (out / "dataset.json").write_text(json.dumps({**record, "format_version": 99}))
    save_case(raw, "case_9", 9)
    before = content(out)
    with pytest.raises(DataError, match=r"format 99, .* upgrade stunet") as caught:
        prepare(ingest(raw), out, ONE_MM)
    one_line(caught)
    assert content(out) == before


def tampered(file: Path, **values: object) -> None:
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, **values}) + "\n")


def test_a_row_that_leads_out_of_the_store(raw: Path, tmp_path: Path) -> None:
    out = prepare(ingest(raw), tmp_path / "store", ONE_MM)
    expected = content(out)
    other = tmp_path / "other"
    shutil.copytree(out / "cases", other / "cases")
    outside = content(other)

    # What an interrupted preparation left: nobody vouches for it, so that the case is written anew.
    rows = sorted(out.glob("cases/*/*.row.json"))
    path = json.loads(rows[0].read_text())["path"]
    tampered(rows[0], path=f"../other/{path}")
    files = json.loads(rows[1].read_text())["files"]
    tampered(rows[1], files={**files, f"../../../../other/{path}/zarr.json": files["zarr.json"]})
    prepare(ingest(raw), out, ONE_MM)
    assert content(out) == expected
    assert content(other) == outside

    # A finished store that was tampered with: refused by whoever opens it.
    (out / "dataset.json").unlink()
    lines = (out / "manifest.jsonl").read_text().replace(f'"{path}"', f'"../other/{path}"')
    (out / "manifest.jsonl").write_text(lines)
    (out / "dataset.json").write_bytes(_vouching_for(out, expected["dataset.json"]))
    with pytest.raises(DataError, match=rf"path '\.\./other/{path}' leads out of the store"):
        open_store(out)


def _vouching_for(out: Path, dataset: bytes) -> bytes:
    """`dataset.json` as a forger would write it."""
    from dataclasses import asdict

    from stunet.io.checksum import checksum_file

    record = json.loads(dataset)
    record["files"]["manifest.jsonl"] = asdict(checksum_file(out / "manifest.jsonl"))
    return json.dumps(record).encode()


def test_a_changed_source_is_prepared_anew_and_no_other(raw: Path, tmp_path: Path) -> None:
    out = prepare(ingest(raw), tmp_path / "store", ONE_MM)

    def written() -> dict[str, int]:
        shards = out.glob("cases/*/*/*/c/**/*")
        return {str(path): path.stat().st_mtime_ns for path in shards if path.is_file()}

    before = written()
    save_case(raw, "case_3", 33)
    prepare(ingest(raw), out, ONE_MM)
    changed = {path for path, at in written().items() if before[path] != at}
    assert len(changed) == 2  # image and label
    assert all("case_3" in path for path in changed)
    assert content(out) == content(prepare(ingest(raw), tmp_path / "fresh", ONE_MM))


def test_the_command_names_the_failing_case_and_prepares_the_others(
    raw: Path, tmp_path: Path
) -> None:
    (raw / "images" / "case_1.nii.gz").write_bytes(b"\x1f\x8b damaged")
    command = [sys.executable, "-m", "launch.cli", "data", "prepare"]
    run = subprocess.run(
        [*command, str(raw), str(tmp_path / "store"), *OPTIONS],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 2
    (message,) = [line for line in run.stderr.splitlines() if line.startswith("stunet: ")]
    assert re.match(r"stunet: 1 of 5 cases failed: case_1: .*case_1\.nii\.gz: .*damaged", message)
    assert len(list(tmp_path.glob("store/cases/*/*.row.json"))) == 4
