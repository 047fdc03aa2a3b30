"""Tars: what foreign readers find in them, and what is refused."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset
from numcodecs import Blosc

from stunet.errors import DataError
from stunet.io.manifest import DatasetInfo
from stunet.io.shards import INDEX, META_BYTES, read_tar, write_index, write_tar
from stunet.io.store import Store, open_store
from stunet.io.store_writer import StoreWriter
from stunet.io.tar_set import is_tar_set, open_tar_set
from stunet.types import CaseArrays

REPO = Path(__file__).resolve().parents[3]
TAR = "000000.tar"

# webdataset 1.0.2 leaves closing the tar to the garbage collector
leaves_files_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def cases(make_case: Callable[..., CaseArrays]) -> dict[str, CaseArrays]:
    partly = replace(make_case("a", seed=1, channels=2), annotated=(1, 2))
    dotted = make_case("1.2.840", (33, 64, 65), seed=2, channels=2)
    return {"a": partly, "1.2.840": dotted}


@pytest.fixture
def store(
    cases: dict[str, CaseArrays], make_info: Callable[..., DatasetInfo], tmp_path: Path
) -> Store:
    writer = StoreWriter(tmp_path / "store", make_info(channels=2))
    writer.finish([writer.write_case(case) for case in cases.values()])
    return open_store(tmp_path / "store")


@pytest.fixture
def out(store: Store, tmp_path: Path) -> Path:
    folder = tmp_path / "tars"
    folder.mkdir()
    write_tar(folder / TAR, store, [0, 1])
    record, rows = read_tar(folder / TAR)
    write_index(folder, store.info, {TAR: record}, rows)
    return folder


def recipe() -> str:
    """The Python of the documentation's section on tars."""
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "docs/data-format.md").read_text(), re.S)
    (block,) = (block for block in blocks if "webdataset" in block)
    return block


@leaves_files_open
def test_webdataset_alone_reads_a_tar_as_documented(
    out: Path, cases: dict[str, CaseArrays]
) -> None:
    found: dict[str, np.ndarray] = {}
    code = recipe().replace("OUT/", f"{out}/") + "    found[meta['case_id']] = image\n"
    exec(code, {"found": found})
    assert set(found) == {"a", "1.2.840"}
    for case_id, image in found.items():
        np.testing.assert_array_equal(image, cases[case_id].image_czyx)


@leaves_files_open
def test_members_hold_label_foreground_and_row(
    out: Path, store: Store, cases: dict[str, CaseArrays]
) -> None:
    samples = list(webdataset.WebDataset(str(out / TAR), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["1%2E2%2E840", "a"]
    for index, sample in enumerate(samples):
        meta = json.loads(sample["meta.json"])
        case = cases[meta["case_id"]]
        label = np.frombuffer(Blosc().decode(sample["label.blosc"]), case.label_zyx.dtype)
        np.testing.assert_array_equal(label.reshape(case.label_zyx.shape), case.label_zyx)
        ids = np.frombuffer(sample["fg.u32"], np.uint32)
        values = case.label_zyx.reshape(-1)[ids]
        assert dict(zip(*np.unique(values, return_counts=True), strict=True)) == {
            int(value): count for value, count in meta["foreground"].items()
        }
        row = store.rows[index]
        assert (meta["split"], tuple(meta["affine"])) == ("train", row.affine)
        assert meta["annotated"] == (None if row.annotated is None else list(row.annotated))
        assert not any(name.endswith(".gz") for name in sample)


def test_a_tar_set_gives_what_the_store_gives(out: Path, store: Store) -> None:
    tars = open_tar_set(out)
    assert is_tar_set(out) and not is_tar_set(store.root)
    assert tars.info == store.info
    for case, row in enumerate(store.rows):
        box = (3, 5, 7), (20, 30, 25)
        for ours, theirs in zip(
            tars.read_patch(case, *box), store.read_patch(case, *box), strict=True
        ):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        for label in (1, 2, 5, 7):
            np.testing.assert_array_equal(
                tars.foreground(case, label), store.foreground(case, label)
            )
        same = ("case_id", "shape_zyx", "scale", "statistics", "split", "annotated", "foreground")
        assert all(getattr(tars.rows[case], n) == getattr(row, n) for n in same)


@pytest.fixture
def memory_url(out: Path) -> Iterator[str]:
    filesystem = fsspec.filesystem("memory")
    for file in out.iterdir():
        filesystem.pipe_file(f"/set/{file.name}", file.read_bytes())
    yield "memory://set"
    filesystem.rm("/set", recursive=True)


def test_tars_below_a_url_give_the_same(memory_url: str, out: Path) -> None:
    there, here = open_tar_set(memory_url), open_tar_set(out)
    assert is_tar_set(memory_url) and not is_tar_set("memory://elsewhere")
    assert there.rows == here.rows
    ours, theirs = there.read_volume(1), here.read_volume(1)
    np.testing.assert_array_equal(ours.image_czyx, theirs.image_czyx)
    np.testing.assert_array_equal(ours.label_zyx, theirs.label_zyx)
    np.testing.assert_array_equal(ours.foreground_ids, theirs.foreground_ids)


def test_the_same_cases_give_the_same_bytes(out: Path, store: Store, tmp_path: Path) -> None:
    again = tmp_path / "again" / TAR
    again.parent.mkdir()
    write_tar(again, store, [0, 1])
    assert again.read_bytes() == (out / TAR).read_bytes()
    with tarfile.open(again) as tar:
        owners = {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar}
    assert owners == {(0, 0, 0, "", "")}


def rewrite(path: Path, change: Callable[[tarfile.TarInfo, bytes], bytes]) -> None:
    """Write a tar anew with every member passed through `change`, which may rename it."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in members:
            data = change(member, data)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def rename_first(to: str) -> Callable[[tarfile.TarInfo, bytes], bytes]:
    def change(member: tarfile.TarInfo, data: bytes) -> bytes:
        if member.name == "1%2E2%2E840.fg.u32":
            member.name = to
        return data

    return change


def flip_a_byte(member: tarfile.TarInfo, data: bytes) -> bytes:
    half = len(data) // 2
    flipped = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
    return flipped if member.name == "a.image.blosc" else data


def bloat_meta(member: tarfile.TarInfo, data: bytes) -> bytes:
    return data + b" " * META_BYTES if member.name.endswith("meta.json") else data


def symlink(member: tarfile.TarInfo, data: bytes) -> bytes:
    if member.name == "1%2E2%2E840.fg.u32":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        return b""
    return data


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (rename_first("../x"), r"member '../x' is no plain file of this tar"),
        (rename_first("/etc/x.fg.u32"), r"member '/etc/x.fg.u32' is no plain file"),
        (rename_first("1%2E2%2E840.other"), "stands where a fg.u32 belongs"),
        (rename_first("b.fg.u32"), r"meta.json belongs to case 1.2.840|another case lies there"),
        (symlink, "is no plain file"),
        (flip_a_byte, r"case a: .*checksum mismatch in image.blosc"),
        (bloat_meta, r"meta.json has \d+ bytes, more than"),
    ],
)
def test_altered_tars_are_refused_on_one_line_and_nothing_is_written(
    out: Path, change: Callable[[tarfile.TarInfo, bytes], bytes], told: str
) -> None:
    tars = open_tar_set(out)
    rewrite(out / TAR, change)
    before = sorted(path for path in out.parent.rglob("*"))
    with pytest.raises(DataError, match=told) as whole:
        read_tar(out / TAR)
    assert "\n" not in str(whole.value)
    if change is not bloat_meta:  # that moves what follows: the index no longer fits
        with pytest.raises(DataError, match=told) as streamed:
            [tars.read_volume(case) for case in (0, 1)]
        assert "\n" not in str(streamed.value)
    assert sorted(path for path in out.parent.rglob("*")) == before


@pytest.mark.parametrize("keep", [0, 100, 70_000])
def test_a_tar_that_is_cut_short_is_refused(out: Path, keep: int) -> None:
    tars = open_tar_set(out)
    (out / TAR).write_bytes((out / TAR).read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut short|ends within a case|is no whole tar|no case"):
        read_tar(out / TAR)
    with pytest.raises(DataError, match=r"case 1\.2\.840: .*000000.tar: is cut short"):
        tars.read_volume(0)


def test_a_missing_tar_names_the_case(out: Path) -> None:
    tars = open_tar_set(out)
    (out / TAR).unlink()
    with pytest.raises(DataError, match=r"case a: .*000000.tar: No such file"):
        tars.read_volume(1)


def edit_index(out: Path, change: Callable[[dict], None]) -> None:
    index = json.loads((out / INDEX).read_text())
    change(index)
    (out / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda index: index.update(format_version=99), "has format 99.*upgrade"),
        (lambda index: index.pop("tars"), "is damaged"),
        (lambda index: index.update(tars={}), "case 1.2.840 has no place in '000000.tar'"),
        (lambda index: index["tars"][TAR]["cases"].update(a=[0, 10**9]), "lies outside"),
        (lambda index: index["files"]["manifest.jsonl"].update(crc32c=1), "was altered"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    out: Path, change: Callable[[dict], None], told: str
) -> None:
    edit_index(out, change)
    with pytest.raises(DataError, match=told) as refused:
        open_tar_set(out)
    assert "\n" not in str(refused.value)


def test_a_folder_without_an_index_is_no_tar_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shards.json: there is none; run 'stunet data shard'"):
        open_tar_set(tmp_path)
