"""Bring an image onto another voxel grid over the same field of view.

Used in preparation and before inference. Label maps go through `resample_label.py`; random
resampling during training is augmentation and lives in `spatial.py`.

Both grids cover the same box in space, so sample `i` of `n_to` lies at
`(i + 0.5) * n_from / n_to - 0.5` of the source (voxel edges align, not voxel centres).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import ndimage

from stunet.types import Size3, Spacing

ANISOTROPY_LIMIT = 3.0  # nnU-Net's threshold: above it slices are too far apart to interpolate
SPLINE_MARGIN = 12  # voxels of edge padding before the spline filter, as in scipy.ndimage


def target_shape(shape_zyx: Size3, spacing_from: Spacing, spacing_to: Spacing) -> Size3:
    """The shape that covers the same field of view at another spacing.

    Args:
        shape_zyx: Voxels of the source.
        spacing_from: Source spacing in mm, z y x.
        spacing_to: Target spacing in mm, z y x.

    Returns:
        Voxels of the target, at least one per axis.

    >>> target_shape((100, 80, 80), (3.0, 1.5, 1.5), (1.5, 1.5, 1.5))
    (200, 80, 80)
    """
    z, y, x = (
        max(1, round(old / new * edge))
        for edge, old, new in zip(shape_zyx, spacing_from, spacing_to, strict=True)
    )
    return z, y, x


def resampled_affine(affine: np.ndarray, shape_from: Size3, shape_to: Size3) -> np.ndarray:
    """The affine of the resampled grid.

    Args:
        affine: (4, 4), voxel index (x, y, z, 1) of the source to RAS+ mm.
        shape_from: Shape before, z y x.
        shape_to: Shape after, z y x.

    Returns:
        (4, 4) float64, voxel index (x, y, z, 1) of the target to RAS+ mm.
    """
    step = np.array(shape_from[::-1]) / np.array(shape_to[::-1])
    to_source_index = np.diag([*step, 1.0])
    to_source_index[:3, 3] = 0.5 * step - 0.5
    return np.asarray(affine, dtype=np.float64) @ to_source_index


def slice_axis(spacing_from: Spacing, spacing_to: Spacing) -> int | None:
    """The axis along which slices are too thick to interpolate between, or None.

    It is the one axis that is coarsest, if its spacing is more than three times the finest of the
    source or else of the target. Two equally coarse axes are interpolated.

    Source: nnU-Net, separate resampling of the through-plane axis.
    """
    for spacing in (spacing_from, spacing_to):
        if max(spacing) > ANISOTROPY_LIMIT * min(spacing):
            coarsest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample_image(
    image_czyx: np.ndarray, spacing_from: Spacing, spacing_to: Spacing, shape_to: Size3
) -> np.ndarray:
    """Interpolate an image with cubic splines, one axis after the other.

    The result equals the three-dimensional cubic spline (`scipy.ndimage.zoom` with order 3, mode
    `nearest`, `grid_mode`) up to rounding, with 12 instead of 64 multiplications per voxel. It is
    clipped to the range of the source, so that no overshoot appears beside metal or air. Across
    thick slices (see `slice_axis`) the nearest slice is taken, each clipped to its own range.

    Args:
        image_czyx: (C, Z, Y, X) float32, any units, finite.
        spacing_from: Source spacing in mm, z y x; decides with `spacing_to` on thick slices only.
        spacing_to: Target spacing in mm, z y x.
        shape_to: Shape of the result, z y x, usually from `target_shape`.

    Returns:
        (C, *shape_to) float32, units kept.

    Source: nnU-Net v2 default resampling of images (order 3; order 0 across thick slices).
    """
    if image_czyx.shape[1:] == tuple(shape_to):
        return image_czyx.copy()
    nearest_axis = slice_axis(spacing_from, spacing_to)
    result = np.empty((len(image_czyx), *shape_to), dtype=np.float32)
    for source_zyx, out in zip(image_czyx, result, strict=True):
        out[...] = _resample_channel(source_zyx, nearest_axis, shape_to)
    return result


def _resample_channel(
    source_zyx: np.ndarray, nearest_axis: int | None, shape_to: Size3
) -> np.ndarray:
    cubic_axes = [axis for axis in range(3) if axis != nearest_axis]
    # Axes that shrink most go first: less is left to do for the others.
    by_growth = sorted(cubic_axes, key=lambda axis: shape_to[axis] / source_zyx.shape[axis])
    volume = source_zyx
    for axis in by_growth:
        if shape_to[axis] != source_zyx.shape[axis]:
            volume = _interpolate_cubic(volume, axis, shape_to[axis])
    lowest = source_zyx.min(axis=tuple(cubic_axes), keepdims=True)
    highest = source_zyx.max(axis=tuple(cubic_axes), keepdims=True)
    volume = np.clip(volume, lowest, highest)
    if nearest_axis is not None:
        volume = _take_nearest(volume, nearest_axis, shape_to[nearest_axis])
    return volume


def source_positions(edge_from: int, edge_to: int) -> np.ndarray:
    """Where each target sample lies on the source axis, in voxels; up to half a voxel outside."""
    return (np.arange(edge_to) + 0.5) * (edge_from / edge_to) - 0.5


def _take_nearest(volume: np.ndarray, axis: int, edge_to: int) -> np.ndarray:
    nearest = np.floor(source_positions(volume.shape[axis], edge_to) + 0.5).astype(np.intp)
    return np.take(volume, nearest.clip(0, volume.shape[axis] - 1), axis=axis)


def _interpolate_cubic(volume: np.ndarray, axis: int, edge_to: int) -> np.ndarray:
    positions = source_positions(volume.shape[axis], edge_to) + SPLINE_MARGIN
    first = np.floor(positions).astype(np.intp)
    margin = [(0, 0)] * 3
    margin[axis] = (SPLINE_MARGIN, SPLINE_MARGIN)
    coefficients = ndimage.spline_filter1d(
        np.pad(volume, margin, mode="edge"), order=3, axis=axis, output=np.float32, mode="nearest"
    )
    outer, inner = volume.shape[:axis], volume.shape[axis + 1 :]
    result = np.empty((*outer, edge_to, *inner), dtype=np.float32)
    _weigh_four(
        coefficients.reshape(int(np.prod(outer)), -1, int(np.prod(inner))),
        first - 1,
        _cubic_weights(positions - first).astype(np.float32),
        result.reshape(int(np.prod(outer)), edge_to, int(np.prod(inner))),
    )
    return result


def _cubic_weights(fraction: np.ndarray) -> np.ndarray:
    """Cubic B-spline at the four samples around a point; (n,) -> (n, 4)."""
    left, right = fraction, 1.0 - fraction
    return np.stack(
        [
            right**3 / 6,
            (left**2 * (left - 2) * 3 + 4) / 6,
            (right**2 * (right - 2) * 3 + 4) / 6,
            left**3 / 6,
        ],
        axis=1,
    )


@njit(cache=True)
def _weigh_four(  # type: ignore[no-untyped-def]
    coefficients, first, weights, result
):  # pragma: no cover - compiled
    """result[:, i] = sum over k of weights[i, k] * coefficients[:, first[i] + k]."""
    for outer in range(result.shape[0]):
        for i in range(result.shape[1]):
            start = first[i]
            w0, w1, w2, w3 = weights[i]
            for inner in range(result.shape[2]):
                result[outer, i, inner] = (
                    w0 * coefficients[outer, start, inner]
                    + w1 * coefficients[outer, start + 1, inner]
                    + w2 * coefficients[outer, start + 2, inner]
                    + w3 * coefficients[outer, start + 3, inner]
                )
