"""Resampling against scipy's three-dimensional splines and a per-label reference."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stunet.io import spill
from stunet.transforms.resample import (
    resample_image,
    resampled_affine,
    slice_axis,
    target_shape,
)
from stunet.transforms.resample_label import resample_label
from stunet.types import Size3, Spacing

CUBE = (1.0, 1.0, 1.0)
edges = st.integers(1, 14)
shapes = st.tuples(edges, edges, edges)


def zoom(array: np.ndarray, shape_to: tuple[int, ...], order: int) -> np.ndarray:
    """What scikit-image's `resize` computes, without its clipping (edge mode, no smoothing)."""
    factors = [new / old for new, old in zip(shape_to, array.shape, strict=True)]
    return ndimage.zoom(
        array.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True
    )


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 1000.0, shape).astype(np.float32)


def label_blobs(shape: Size3, labels: int, seed: int) -> np.ndarray:
    """Smooth regions with a thin boundary between any two of them."""
    fields = np.random.default_rng(seed).normal(size=(labels, *shape))
    smooth = [ndimage.gaussian_filter(field, 2.0, mode="nearest") for field in fields]
    return np.argmax(smooth, axis=0).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(shapes, shapes, st.integers(0, 2**16))
def test_image_equals_the_three_dimensional_cubic_spline(
    shape_from: Size3, shape_to: Size3, seed: int
) -> None:
    image = noise((2, *shape_from), seed)
    result = resample_image(image, CUBE, CUBE, shape_to)
    assert result.dtype == np.float32
    for channel, out in zip(image, result, strict=True):
        if shape_from == shape_to:
            expected = channel.astype(np.float64)
        else:
            expected = zoom(channel, shape_to, order=3).clip(channel.min(), channel.max())
        np.testing.assert_allclose(out, expected, atol=2e-3)  # 5e-7 of the range


@pytest.mark.parametrize(
    ("axis", "shape_from", "shape_to", "spacing_from", "spacing_to"),
    [
        (0, (9, 31, 23), (13, 40, 17), (5.0, 1.0, 1.0), (3.5, 0.8, 1.4)),
        (1, (20, 6, 21), (20, 15, 30), (1.0, 8.0, 1.0), (1.0, 3.2, 0.7)),
        (2, (20, 21, 30), (15, 30, 7), (1.0, 1.0, 1.2), (1.3, 0.7, 5.0)),
    ],
)
def test_thick_slices_are_taken_not_interpolated(
    axis: int,
    shape_from: Size3,
    shape_to: Size3,
    spacing_from: tuple[float, float, float],
    spacing_to: tuple[float, float, float],
) -> None:
    image = noise((1, *shape_from), 3)
    in_plane = tuple(edge for a, edge in enumerate(shape_to) if a != axis)
    planes = [
        zoom(plane, in_plane, order=3).clip(plane.min(), plane.max())
        for plane in np.moveaxis(image[0], axis, 0)
    ]
    stacked = np.stack(planes, axis)
    coordinates = np.indices(shape_to).astype(np.float64)
    ratio = shape_from[axis] / shape_to[axis]
    coordinates[axis] = ratio * (coordinates[axis] + 0.5) - 0.5
    expected = ndimage.map_coordinates(stacked, coordinates, order=0, mode="nearest")
    result = resample_image(image, spacing_from, spacing_to, shape_to)[0]
    np.testing.assert_allclose(result, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("spacing_from", "spacing_to", "expected"),
    [
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((3.1, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), 1),
        ((1.0, 1.0, 9.0), (1.0, 4.0, 1.0), 2),
        ((0.24, 1.25, 1.25), (1.0, 1.0, 1.0), None),
    ],
)
def test_slice_axis(
    spacing_from: tuple[float, float, float],
    spacing_to: tuple[float, float, float],
    expected: int | None,
) -> None:
    assert slice_axis(spacing_from, spacing_to) == expected


def test_overshoot_beside_metal_is_clipped() -> None:
    image = np.full((1, 12, 12, 12), -1024.0, np.float32)
    image[0, 5:7, 5:7, 5:7] = 31719.0
    result = resample_image(image, CUBE, (0.6, 0.6, 0.6), (20, 20, 20))
    assert result.min() == -1024.0
    assert result.max() <= 31719.0


def test_a_linear_field_stays_where_it_was_in_space() -> None:
    shape_from, shape_to = (24, 20, 28), (37, 13, 28)
    affine = np.array(
        [[-0.9, 0.1, 0.0, 7.0], [0.1, 1.4, 0.2, -3.0], [0.0, -0.2, 2.5, 11.0], [0, 0, 0, 1.0]]
    )

    def field(shape_zyx: Size3, affine: np.ndarray) -> np.ndarray:
        z, y, x = np.indices(shape_zyx)
        ras = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ affine.T
        return ras[..., :3] @ np.array([3.0, -2.0, 5.0]) + 40.0

    image = field(shape_from, affine)[None].astype(np.float32)
    result = resample_image(image, CUBE, CUBE, shape_to)[0]
    expected = field(shape_to, resampled_affine(affine, shape_from, shape_to))
    inner = (slice(8, -8), slice(4, -4), slice(6, -6))  # edges are padded, not extrapolated
    np.testing.assert_allclose(result[inner], expected[inner], atol=2e-3)


@settings(max_examples=30, deadline=None)
@given(shapes, shapes, st.integers(2, 6), st.integers(0, 2**16))
def test_label_equals_the_argmax_of_every_labels_own_interpolation(
    shape_from: Size3, shape_to: Size3, labels: int, seed: int
) -> None:
    label = np.random.default_rng(seed).integers(0, labels, shape_from).astype(np.uint8)
    scores = np.stack([zoom(label == value, shape_to, order=1) for value in range(labels)])
    result = resample_label(label, shape_to)
    majority = scores.max(axis=0) > 0.5 + 1e-6
    np.testing.assert_array_equal(result[majority], scores.argmax(axis=0)[majority])
    won = np.take_along_axis(scores, result[None].astype(np.intp), axis=0)[0]
    np.testing.assert_allclose(won, scores.max(axis=0), atol=1e-5)


def test_label_blobs_hold_a_majority_nearly_everywhere() -> None:
    label = label_blobs((40, 36, 44), 12, seed=5)
    shape_to = (61, 29, 53)
    scores = np.stack([zoom(label == value, shape_to, order=1) for value in range(12)])
    result = resample_label(label, shape_to)
    majority = scores.max(axis=0) > 0.5 + 1e-6
    assert majority.mean() > 0.9
    np.testing.assert_array_equal(result[majority], scores.argmax(axis=0)[majority])


@pytest.mark.parametrize(
    ("corners", "winner"),
    [
        ([5, 3, 5, 3, 5, 3, 5, 3], 3),  # half each: the nearest voxel, rounding half up
        ([3, 5, 3, 5, 3, 5, 3, 5], 5),
        ([3, 1, 1, 1, 2, 2, 2, 3], 1),  # the nearest has fewer votes: smallest of the best
        ([9, 8, 7, 6, 5, 4, 3, 2], 2),
        ([7, 7, 7, 0, 0, 0, 0, 7], 7),
        ([0, 4, 4, 4, 4, 4, 1, 0], 4),
    ],
)
def test_label_ties(corners: list[int], winner: int) -> None:
    label = np.array(corners, np.uint16).reshape(2, 2, 2)
    result = resample_label(label, (1, 1, 1))
    assert result.dtype == np.uint16
    assert result.item() == winner


@pytest.mark.parametrize("factor", [2, 3])
def test_blocks_of_a_label_survive_up_and_down(factor: int) -> None:
    label = np.random.default_rng(0).integers(0, 300, (5, 6, 7)).astype(np.uint16)
    grown = label.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)
    z, y, x = grown.shape
    np.testing.assert_array_equal(resample_label(grown, (5, 6, 7)), label)
    centres = (slice(factor // 2, None, factor),) * 3
    np.testing.assert_array_equal(resample_label(label, (z, y, x))[centres], label)


@pytest.mark.parametrize(
    ("shape", "spacing_from", "spacing_to", "expected"),
    [
        ((100, 80, 80), (3.0, 1.5, 1.5), (1.5, 1.5, 1.5), (200, 80, 80)),
        ((118, 70, 123), (2.5, 4.1, 4.1), (3.0, 3.0, 3.0), (98, 96, 168)),
        ((2, 1, 3), (1.0, 1.0, 1.0), (9.0, 9.0, 9.0), (1, 1, 1)),
    ],
)
def test_target_shape(
    shape: Size3,
    spacing_from: tuple[float, float, float],
    spacing_to: tuple[float, float, float],
    expected: Size3,
) -> None:
    assert target_shape(shape, spacing_from, spacing_to) == expected


def test_same_shape_is_a_copy() -> None:
    image, label = noise((1, 4, 5, 6), 0), label_blobs((4, 5, 6), 3, 0)
    for source, result in (
        (image, resample_image(image, CUBE, CUBE, (4, 5, 6))),
        (label, resample_label(label, (4, 5, 6))),
    ):
        np.testing.assert_array_equal(result, source)
        assert not np.shares_memory(result, source)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_label_across_thick_slices_is_that_of_the_nearest_slice(axis: int) -> None:
    """nnU-Net's way: every slice resized per label, then slices taken by order 0."""
    shape_from, shape_to = [34, 38, 30], [51, 29, 47]
    shape_from[axis], shape_to[axis] = 7, 18
    label = label_blobs((shape_from[0], shape_from[1], shape_from[2]), 9, seed=axis)
    in_plane = tuple(edge for a, edge in enumerate(shape_to) if a != axis)
    slices = [
        np.stack([zoom(plane == value, in_plane, order=1) for value in range(9)])
        for plane in np.moveaxis(label, axis, 0)
    ]
    scores = np.stack(slices, axis=axis + 1)
    coordinates = np.arange(shape_to[axis])
    across = shape_from[axis] / shape_to[axis] * (coordinates + 0.5) - 0.5
    nearest = ndimage.map_coordinates(
        np.arange(shape_from[axis], dtype=float), across[None], order=0, mode="nearest"
    )
    scores = scores.take(nearest.astype(int), axis=axis + 1)
    result = resample_label(label, (shape_to[0], shape_to[1], shape_to[2]), nearest_axis=axis)
    majority = scores.max(axis=0) > 0.5 + 1e-6
    assert majority.mean() > 0.9
    np.testing.assert_array_equal(result[majority], scores.argmax(axis=0)[majority])


@pytest.mark.parametrize("spacing_mm", [(0.9, 0.7, 0.8), (4.0, 1.0, 1.0), (1.0, 1.0, 4.0)])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_planes_at_a_time_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spacing_mm: Spacing, dtype: type
) -> None:
    image = noise((2, 61, 30, 40), 8).astype(dtype)
    label = label_blobs((61, 30, 40), 9, seed=8)
    shape_to = target_shape((61, 30, 40), spacing_mm, CUBE)
    nearest_axis = slice_axis(spacing_mm, CUBE)
    at_once = resample_image(image, spacing_mm, CUBE, shape_to)
    voted = resample_label(label, shape_to, nearest_axis)
    monkeypatch.setattr(spill, "IN_MEMORY_BYTES", 1000)
    for voxels in (1, 9000):
        monkeypatch.setattr(spill, "SLAB_VOXELS", voxels)
        by_planes = resample_image(image, spacing_mm, CUBE, shape_to, spill.Spill(tmp_path))
        assert isinstance(by_planes, np.memmap)
        assert by_planes.tobytes() == at_once.tobytes()
        spilled = resample_label(label, shape_to, nearest_axis, spill.Spill(tmp_path))
        assert isinstance(spilled, np.memmap)
        assert spilled.tobytes() == voted.tobytes()
    assert list(tmp_path.iterdir()) == []
