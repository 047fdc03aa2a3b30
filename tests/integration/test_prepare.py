"""Preparation of real scans, read back with zarr-python and compared with nibabel and scipy."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import zarr
from scipy import ndimage

from data_tools.ingest import ingest
from data_tools.plan import PlanConfig
from data_tools.prepare import PrepareConfig, prepare
from data_tools.workers import SlurmConfig
from stunet.errors import ConfigError, DataError
from stunet.io.store import Store, open_store

REPO = Path(__file__).resolve().parents[2]
CT = "train_ct/openkbp"
MR = "finetune/hippocampus_mr"
ONE_MM = PrepareConfig(plan=PlanConfig(spacing_mm=(1.0, 1.0, 1.0)), holdout=1)


def link_pairs(source: Path, root: Path, case_ids: Iterable[str]) -> Path:
    """A folder of pairs with some of the cases of another."""
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        for case_id in case_ids:
            (root / kind / f"{case_id}.nii.gz").symlink_to(source / kind / f"{case_id}.nii.gz")
    (root / "labels.json").symlink_to(source / "labels.json")
    return root


def hippocampi(shared_data: Path, root: Path, count: int) -> Path:
    names = sorted(path.name for path in (shared_data / MR / "images").iterdir())[:count]
    return link_pairs(shared_data / MR, root, [name.removesuffix(".nii.gz") for name in names])


def canonical(path: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A scan as nibabel turns it to RAS+: (z, y, x) array and affine."""
    image = nib.as_closest_canonical(nib.load(path))  # type: ignore[arg-type, attr-defined]
    return np.asarray(image.dataobj).T, image.affine


def stored(store: Store, case: int) -> tuple[np.ndarray, np.ndarray]:
    """Physical image (C, z, y, x) and label of a case, read by zarr-python."""
    row = store.rows[case]
    group = zarr.open_group(str(store.root / row.path), mode="r")
    scale, offset = (np.array(v).reshape(-1, 1, 1, 1) for v in (row.scale, row.offset))
    return np.asarray(group["image"]) * scale + offset, np.asarray(group["label"])


def content(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_unresampled_ct_is_stored_without_loss(shared_data: Path, tmp_path: Path) -> None:
    raw = ingest(link_pairs(shared_data / CT, tmp_path / "raw", ["pt_109", "pt_119"]))
    image, affine = canonical(raw.cases[0].images[0])
    spacing = tuple(float(step) for step in np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    config = PrepareConfig(plan=PlanConfig(spacing_mm=spacing), holdout=1)  # type: ignore[arg-type]
    store = open_store(prepare(raw, tmp_path / "store", config))
    assert [row.case_id for row in store.rows] == ["pt_109", "pt_119"]
    assert sorted(row.split for row in store.rows) == ["train", "val"]
    assert store.info.labels["mandible"] == 7
    (channel,) = store.info.channels
    assert channel.scheme == "ct"

    physical, label = stored(store, 0)
    row = store.rows[0]
    np.testing.assert_array_equal(physical[0], image)
    np.testing.assert_array_equal(label, canonical(raw.cases[0].label)[0])
    np.testing.assert_allclose(np.reshape(row.affine, (4, 4)), affine, atol=1e-9)
    (whole,) = row.statistics
    exact = image.astype(np.float64)
    assert (whole.mean, whole.std) == pytest.approx((exact.mean(), exact.std()))
    assert (whole.min, whole.max) == (image.min(), image.max())


def test_resampled_ct_equals_scipy(shared_data: Path, tmp_path: Path) -> None:
    raw = ingest(link_pairs(shared_data / CT, tmp_path / "raw", ["pt_109"]))
    config = PrepareConfig(plan=PlanConfig(spacing_mm=(3.0, 3.0, 3.0)), holdout=0)
    store = open_store(prepare(raw, tmp_path / "store", config))
    physical, label = stored(store, 0)
    image, affine = canonical(raw.cases[0].images[0])
    reference = canonical(raw.cases[0].label)[0]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    assert label.shape == tuple(round(n * s / 3) for n, s in zip(image.shape, spacing, strict=True))

    factors = np.divide(label.shape, image.shape)
    cubic = ndimage.zoom(
        image.astype(np.float64), factors, order=3, mode="nearest", grid_mode=True
    ).clip(image.min(), image.max())
    assert np.abs(physical[0] - cubic).max() <= 0.51  # HU: rounded to integers
    for value in range(8):
        indicator = (reference == value).astype(np.float64)
        score = ndimage.zoom(indicator, factors, order=1, mode="nearest", grid_mode=True)
        assert (label[score > 0.5 + 1e-6] == value).all()
    assert store.rows[0].voxel_counts == {
        int(value): int((label == value).sum()) for value in np.unique(label)
    }

    def centre_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
        return affine[:3] @ [*ndimage.center_of_mass(mask)[::-1], 1.0]

    moved = np.reshape(store.rows[0].affine, (4, 4))
    distance = centre_mm(label == 7, moved) - centre_mm(reference == 7, affine)
    assert np.abs(distance).max() < 0.3


def test_mr_of_any_scale_keeps_its_range(shared_data: Path, tmp_path: Path) -> None:
    raw = ingest(hippocampi(shared_data, tmp_path / "raw", 3))
    store = open_store(prepare(raw, tmp_path / "store", ONE_MM))
    assert store.info.channels[0].scheme == "zscore"
    for number, case in enumerate(raw.cases):
        physical, label = stored(store, number)
        image = canonical(case.images[0])[0].astype(np.float64)
        assert np.abs(physical[0] - image).max() <= 0.51 * np.ptp(image) / 65535
        np.testing.assert_array_equal(label, canonical(case.label)[0])


def test_totalsegmentator_tree_gives_the_same_labels(shared_data: Path, tmp_path: Path) -> None:
    pairs = ingest(hippocampi(shared_data, tmp_path / "pairs", 3))
    root = tmp_path / "raw"
    for case in pairs.cases:
        masks = root / case.case_id / "segmentations"
        masks.mkdir(parents=True)
        (masks.parent / "mri.nii.gz").symlink_to(case.images[0])
        label = nib.load(case.label)  # type: ignore[arg-type, attr-defined]
        for value, name in ((1, "anterior"), (2, "posterior")):
            mask = (np.asarray(label.dataobj) == value).astype(np.uint8)
            nib.save(nib.Nifti1Image(mask, label.affine), masks / f"{name}.nii.gz")  # type: ignore[attr-defined]
    with (root / "meta.csv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["image_id", "split"])
        rows.writerows(zip((c.case_id for c in pairs.cases), ("train", "test", "val"), strict=True))
    store = open_store(prepare(ingest(root), tmp_path / "store", ONE_MM))
    assert [row.split for row in store.rows] == ["train", "test", "val"]
    assert store.info.labels == {"background": 0, "anterior": 1, "posterior": 2}
    for number, case in enumerate(pairs.cases):
        np.testing.assert_array_equal(stored(store, number)[1], canonical(case.label)[0])


def test_nnunet_tree_with_two_channels_and_ignore(shared_data: Path, tmp_path: Path) -> None:
    pairs = ingest(hippocampi(shared_data, tmp_path / "pairs", 2))
    root = tmp_path / "Dataset004"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in pairs.cases:
        for channel in range(2):
            (root / "imagesTr" / f"{case.case_id}_000{channel}.nii.gz").symlink_to(case.images[0])
        (root / "labelsTr" / f"{case.case_id}.nii.gz").symlink_to(case.label or "")
    declared = {
        "channel_names": {"0": "CT", "1": "T2"},
        "labels": {"background": 0, "anterior": 1, "ignore": 2},
        "file_ending": ".nii.gz",
        "numTraining": 2,
    }
    (root / "dataset.json").write_text(json.dumps(declared))
    train, val = (case.case_id for case in pairs.cases)
    (root / "splits_final.json").write_text(json.dumps([{"train": [train], "val": [val]}]))
    store = open_store(prepare(ingest(root), tmp_path / "store", ONE_MM))
    assert [row.split for row in store.rows] == ["train", "val"]
    assert [channel.scheme for channel in store.info.channels] == ["ct", "zscore"]
    assert store.info.ignore_label == 2
    physical, label = stored(store, 0)
    image = canonical(pairs.cases[0].images[0])[0]
    np.testing.assert_array_equal(physical[0], np.rint(image))
    np.testing.assert_allclose(physical[1], image, atol=np.ptp(image) / 65535)
    np.testing.assert_array_equal(label, canonical(pairs.cases[0].label)[0])


def test_labels_nobody_named_are_named_by_value(shared_data: Path, tmp_path: Path) -> None:
    root = hippocampi(shared_data, tmp_path / "raw", 2)
    (root / "labels.json").unlink()
    store = open_store(prepare(ingest(root), tmp_path / "store", ONE_MM))
    assert store.info.labels == {"background": 0, "label_1": 1, "label_2": 2}


def test_a_damaged_case_stops_neither_the_others_nor_a_later_run(
    shared_data: Path, tmp_path: Path
) -> None:
    root = hippocampi(shared_data, tmp_path / "raw", 4)
    clean = prepare(ingest(root), tmp_path / "clean", ONE_MM)
    raw = ingest(root)
    image = Path(raw.cases[1].images[0])
    intact = image.readlink()
    image.unlink()
    image.write_bytes(intact.read_bytes()[:5000])
    out = tmp_path / "store"
    seen: list[tuple[int, int]] = []
    with pytest.raises(DataError, match="1 of 4 cases failed: hippocampus_003: ") as caught:
        prepare(raw, out, ONE_MM, on_progress=lambda done, total, _: seen.append((done, total)))
    assert "\n" not in str(caught.value)
    assert seen == [(step, 8) for step in range(1, 8)]
    with pytest.raises(DataError, match="no store"):
        open_store(out)
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("*.row.json")}
    assert len(finished) == 3

    image.unlink()
    image.symlink_to(intact)
    prepare(raw, out, ONE_MM)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert content(out) == content(clean)


def test_every_case_damaged(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / "raw" / kind).mkdir(parents=True)
        for case_id in ("a", "b"):
            (tmp_path / "raw" / kind / f"{case_id}.nii.gz").touch()
    with pytest.raises(DataError, match=r"2 of 2 cases failed: a: .*; b: "):
        prepare(ingest(tmp_path / "raw"), tmp_path / "store", ONE_MM)


def test_a_foreign_label_value_is_refused(shared_data: Path, tmp_path: Path) -> None:
    raw = ingest(hippocampi(shared_data, tmp_path / "raw", 2))
    raw = replace(raw, labels={"background": 0, "anterior": 1})
    with pytest.raises(DataError, match=re.escape("hippocampus_001: label value 2 (")):
        prepare(raw, tmp_path / "store", ONE_MM)


def test_a_finished_store_is_kept_grown_or_refused(shared_data: Path, tmp_path: Path) -> None:
    root, out = hippocampi(shared_data, tmp_path / "raw", 3), tmp_path / "store"
    prepare(ingest(root), out, ONE_MM)
    before = content(out)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("cases/**/*")}
    prepare(ingest(root), out, ONE_MM)
    assert content(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("cases/**/*")} == written

    other = PrepareConfig(plan=PlanConfig(spacing_mm=(2.0, 2.0, 2.0)), holdout=1)
    with pytest.raises(DataError, match="holds a finished store at"):
        prepare(ingest(root), out, other)
    assert content(out) == before

    more = ingest(hippocampi(shared_data, tmp_path / "more", 5))
    prepare(replace(more, name="raw"), out, ONE_MM)
    fresh = prepare(replace(more, name="raw"), tmp_path / "fresh", ONE_MM)
    for name in ("dataset.json", "manifest.jsonl", "index.bin", "fg.bin"):
        assert (out / name).read_bytes() == (fresh / name).read_bytes()
    assert len(open_store(out).rows) == 5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PrepareConfig(workers=-1), "workers=-1"),
        (PrepareConfig(scheduler="tcp://a:1", slurm=SlurmConfig(jobs=2)), "choose one of them"),
        (PrepareConfig(codec="zip"), "codec 'zip' is unknown"),
        (PrepareConfig(plan=PlanConfig(scheme="x")), "scheme 'x': unknown"),
        (PrepareConfig(holdout=9), "holdout=9"),
    ],
)
def test_impossible_settings_fail_before_any_work(
    shared_data: Path, tmp_path: Path, config: PrepareConfig, message: str
) -> None:
    raw = ingest(hippocampi(shared_data, tmp_path / "raw", 2))
    with pytest.raises(ConfigError, match=message):
        prepare(raw, tmp_path / "store", config)
    assert not (tmp_path / "store").exists()


RUN = """
import sys
from pathlib import Path
from data_tools.ingest import ingest
from data_tools.plan import PlanConfig
from data_tools.prepare import PrepareConfig, prepare
from data_tools.workers import SlurmConfig

def step(done, total, case_id):
    print(done, flush=True)

if __name__ == "__main__":
    raw, out, workers = sys.argv[1:]
    plan = PlanConfig(spacing_mm=(1.0, 1.0, 1.0))
    prepare(ingest(raw), Path(out), PrepareConfig(plan=plan, holdout=1, workers=int(workers)), step)
"""


def start(script: Path, raw: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script), str(raw), str(out), str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.mark.slow
def test_killed_and_continued_by_workers_gives_the_same_bytes(
    shared_data: Path, tmp_path: Path
) -> None:
    raw, out = hippocampi(shared_data, tmp_path / "raw", 6), tmp_path / "store"
    script = tmp_path / "run.py"
    script.write_text(RUN)
    for kill_after in (3, 9):  # while measuring, while writing
        with start(script, raw, out, workers=0) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) == kill_after:
                    os.killpg(process.pid, signal.SIGKILL)
            assert process.wait(timeout=60) == -signal.SIGKILL
        assert not (out / "dataset.json").exists()
    with start(script, raw, out, workers=2) as process:
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert [int(line) for line in printed.split()] == list(range(1, 13))
    assert content(out) == content(prepare(ingest(raw), tmp_path / "clean", ONE_MM))
