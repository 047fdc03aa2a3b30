from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from stunet.errors import DataError
from stunet.io import foreground
from stunet.io.foreground import (
    ForegroundIndex,
    build_foreground,
    count_voxels,
    foreground_counts,
    id_dtype,
)


def index_of(tmp_path: Path, block: bytes) -> ForegroundIndex:
    (tmp_path / "fg.bin").write_bytes(block)
    return ForegroundIndex(tmp_path / "fg.bin")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_voxel_counts_are_those_of_numpy(dtype: type) -> None:
    label = np.random.default_rng(0).choice([0, 1, 5, 250], (170, 160, 165)).astype(dtype)
    values, counts = np.unique(label, return_counts=True)
    assert count_voxels(label) == dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_background_and_excluded_labels_are_left_out_and_large_ones_capped() -> None:
    kept = foreground_counts({5: 2000, 0: 10**6, 1: 3, 255: 400}, frozenset({0, 255}))
    assert list(kept.items()) == [(1, 3), (5, 1024)]


def test_every_id_points_at_its_label(tmp_path: Path) -> None:
    label = np.random.default_rng(1).choice([0, 1, 2, 3], (30, 31, 37), p=[0.5, 0.3, 0.19, 0.01])
    label = label.astype(np.uint8)
    kept = foreground_counts(count_voxels(label), {0})
    index = index_of(tmp_path, bytes(8) + build_foreground(label, count_voxels(label), kept, "a"))
    for value, count in {1: 1024, 2: 1024, 3: int((label == 3).sum())}.items():
        voxels = index.coordinates(8, kept, value, label.shape)
        assert voxels.shape == (count, 3)
        assert (label[tuple(voxels.T)] == value).all()
        flat = np.ravel_multi_index(tuple(voxels.T), label.shape)
        assert (np.diff(flat) > 0).all()  # sorted, hence also different
    np.testing.assert_array_equal(
        index.coordinates(8, kept, 3, label.shape), np.argwhere(label == 3)
    )
    assert index.coordinates(8, kept, 4, label.shape).shape == (0, 3)


def test_a_large_structure_is_covered_in_all_directions(tmp_path: Path) -> None:
    label = np.zeros((80, 80, 80), np.uint8)
    label[8:72, 8:72, 8:72] = 1  # 64^3 = 256 * 1024: even spacing would keep to 4 columns
    index = index_of(tmp_path, build_foreground(label, count_voxels(label), {1: 1024}, "a"))
    voxels = index.coordinates(0, {1: 1024}, 1, label.shape)
    for axis in range(3):
        assert len(np.unique(voxels[:, axis])) >= 60
        assert abs(voxels[:, axis].mean() - 39.5) < 2.0  # 18.5 / sqrt(1024) = 0.6


def test_the_choice_depends_on_the_case_alone() -> None:
    label = np.ones((20, 20, 20), np.uint8)

    def chosen(case_id: str) -> bytes:
        return build_foreground(label, {1: 8000}, {1: 1024}, case_id)

    assert chosen("a") == chosen("a")
    assert len({chosen(f"case{number}") for number in range(20)} - {chosen("a")}) == 20


def test_planes_at_a_time_choose_the_same_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.random.default_rng(2).choice(5, (30, 31, 37), p=[0.6, 0.3, 0.09, 0.009, 0.001])
    label = label.astype(np.uint16)
    label[:11] = 0
    counts = count_voxels(label)
    kept = foreground_counts(counts, {0})
    at_once = build_foreground(label, counts, kept, "a")
    for voxels in (1, 4000):
        monkeypatch.setattr(foreground, "SORTED_VOXELS", voxels)
        assert build_foreground(label, counts, kept, "a") == at_once


def test_blocks_are_multiples_of_eight_bytes() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[0, 0, :3] = 1
    expected = np.array([0, 1, 2, 0], "<u4").tobytes()
    assert build_foreground(label, {0: 61, 1: 3}, {1: 3}, "a") == expected


def test_ids_are_64_bit_from_2_to_the_32_voxels_on(tmp_path: Path) -> None:
    assert id_dtype((65536, 65536, 1)) == np.dtype("<u8")
    assert id_dtype((65536, 65535, 1)) == np.dtype("<u4")
    ids = np.array([3, 2**32 + 2048 * 7 + 5], "<u8")
    index = index_of(tmp_path, ids.tobytes())
    voxels = index.coordinates(0, {4: 2}, 4, (2048, 2048, 2048))
    assert voxels.tolist() == [[0, 0, 3], [1024, 7, 5]]


def test_ids_outside_the_volume_and_a_short_file_are_errors(tmp_path: Path) -> None:
    outside = index_of(tmp_path, np.array([1, 27], "<u4").tobytes())
    with pytest.raises(DataError, match="not voxel ids of label 1"):
        outside.coordinates(0, {1: 2}, 1, (3, 3, 3))
    short = index_of(tmp_path, np.array([1, 2], "<u4").tobytes()[:-1])
    with pytest.raises(DataError, match="not voxel ids of label 1"):
        short.coordinates(0, {1: 2}, 1, (3, 3, 3))
    with pytest.raises(DataError, match="No such file"):
        ForegroundIndex(tmp_path / "none").coordinates(0, {1: 2}, 1, (3, 3, 3))


def test_an_index_pickles_after_use(tmp_path: Path) -> None:
    index = index_of(tmp_path, np.arange(1000, dtype="<u4").tobytes())
    first = index.coordinates(0, {1: 1000}, 1, (10, 10, 10))
    pickled = pickle.dumps(index)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(
        pickle.loads(pickled).coordinates(0, {1: 1000}, 1, (10, 10, 10)), first
    )
