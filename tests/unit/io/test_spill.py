from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stunet.errors import DataError
from stunet.io import spill
from stunet.io.spill import Spill, copy_into, cut, planes_of, release, walk

SHAPE = (2, 40, 64, 64)


@pytest.fixture
def spilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(spill, "IN_MEMORY_BYTES", 1000)
    array = Spill(tmp_path / "scratch")(SHAPE, np.int16)
    array[...] = np.random.default_rng(0).integers(-999, 999, SHAPE)
    return array


def resident_bytes() -> int:
    """Of files mapped into this process."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssFile:")[1].split()[0])


def test_small_arrays_stay_in_memory(tmp_path: Path) -> None:
    array = Spill(tmp_path / "scratch")((3, 4), np.float32)
    assert not isinstance(array, np.memmap)
    assert not (tmp_path / "scratch").exists()


def test_the_file_has_no_name_and_ends_with_the_array(spilled: np.ndarray, tmp_path: Path) -> None:
    assert isinstance(spilled, np.memmap)
    assert spilled.flags.c_contiguous
    assert list((tmp_path / "scratch").iterdir()) == []
    free_bytes = shutil.disk_usage(tmp_path).free
    array = Spill(tmp_path / "scratch")((1 << 27,), np.uint8)
    assert shutil.disk_usage(tmp_path).free < free_bytes - (1 << 26)
    del array
    assert shutil.disk_usage(tmp_path).free > free_bytes - (1 << 26)


def test_released_memory_keeps_its_values(spilled: np.ndarray) -> None:
    expected = np.array(spilled)
    before = resident_bytes()
    release(spilled[1, ::-1].T)  # any view will do
    assert before - resident_bytes() > 0.9 * spilled.nbytes
    np.testing.assert_array_equal(spilled, expected)
    release(np.zeros(3))  # nothing to do


def test_walking_leaves_only_a_slab_resident(
    spilled: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "SLAB_VOXELS", 3 * 64 * 64)
    expected = np.array(spilled)
    release(spilled)
    before, most, seen = resident_bytes(), 0, []
    for first, second in walk(*spilled):
        seen.append(np.stack([first, second]))
        most = max(most, resident_bytes() - before)
    np.testing.assert_array_equal(np.concatenate(seen, axis=1), expected)
    assert [part.shape[1] for part in seen] == [3] * 13 + [1]
    assert most < spilled.nbytes / 2


def test_a_box_is_a_copy_where_the_array_is_spilled(spilled: np.ndarray) -> None:
    box = (slice(1, 2), slice(5, 25), slice(10, 50), slice(0, 7))
    copy = cut(spilled, box)
    np.testing.assert_array_equal(copy, spilled[box])
    assert not np.shares_memory(copy, spilled)
    memory = np.array(spilled)
    assert np.shares_memory(cut(memory, box), memory)
    np.testing.assert_array_equal(cut(spilled[0], box[1:]), spilled[0][box[1:]])


def test_copies_convert_and_take_any_strides(spilled: np.ndarray) -> None:
    target = np.zeros((64, 64, 40), np.float32)
    copy_into(target.T[:, ::-1], spilled[0])
    np.testing.assert_array_equal(target.T[:, ::-1], spilled[0])


@pytest.mark.parametrize(("planes", "size", "voxels"), [(1, 9, 1), (7, 10, 30), (7, 10, 10**6)])
def test_planes_cover_the_stack_once(planes: int, size: int, voxels: int) -> None:
    parts = planes_of(planes, size, voxels)
    assert [z for part in parts for z in range(planes)[part]] == list(range(planes))
    assert all((part.stop - part.start) * size <= max(voxels, size) for part in parts)


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, mount_disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_disk = mount_disk(tmp_path / "disk", "size=4m")
    monkeypatch.setattr(spill, "IN_MEMORY_BYTES", 1000)
    with pytest.raises(DataError, match=r"0\.1 GB of temporary voxels do not fit \(No space left"):
        Spill(small_disk)((100, 1000, 1000), np.uint8)
    assert list(small_disk.iterdir()) == []
