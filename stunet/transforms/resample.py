"""Bring an image onto another voxel grid over the same field of view.

Used in preparation and before inference; `spline.py` has the interpolation along one axis. Label
maps go through `resample_label.py`; random resampling during training is augmentation and lives in
`spatial.py`.

Both grids cover the same box in space, so sample `i` of `n_to` lies at
`(i + 0.5) * n_from / n_to - 0.5` of the source (voxel edges align, not voxel centres).
"""

from __future__ import annotations

import numpy as np

from stunet.io.spill import Allocate, copy_into, planes_of, release, walk
from stunet.transforms.spline import apply_taps, cubic_taps, nearest_taps
from stunet.types import Size3, Spacing

ANISOTROPY_LIMIT = 3.0  # nnU-Net's threshold: above it slices are too far apart to interpolate


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
    image_czyx: np.ndarray,
    spacing_from: Spacing,
    spacing_to: Spacing,
    shape_to: Size3,
    allocate: Allocate = np.empty,
) -> np.ndarray:
    """Interpolate an image with cubic splines, one axis after the other.

    The result equals the three-dimensional cubic spline (`scipy.ndimage.zoom` with order 3, mode
    `nearest`, `grid_mode`) up to rounding. It is clipped to the range of the source, so that no
    overshoot appears beside metal or air. Across thick slices (see `slice_axis`) the nearest slice
    is taken, each clipped to its own range.

    Some planes are computed at a time, and the result does not depend on how many.

    Args:
        image_czyx: (C, Z, Y, X) int16, int32 or float32, any units, finite.
        spacing_from: Source spacing in mm, z y x; decides with `spacing_to` on thick slices only.
        spacing_to: Target spacing in mm, z y x.
        shape_to: Shape of the result, z y x, usually from `target_shape`.
        allocate: Makes the result; a `Spill` keeps a large one out of memory.

    Returns:
        (C, *shape_to) float32, units kept.

    Source: nnU-Net v2 default resampling of images (order 3; order 0 across thick slices).
    """
    nearest_axis = slice_axis(spacing_from, spacing_to)
    result = allocate((len(image_czyx), *shape_to), np.float32)
    for source_zyx, out in zip(image_czyx, result, strict=True):
        if source_zyx.shape == tuple(shape_to):
            copy_into(out, source_zyx)
        else:
            _resample_channel(source_zyx, nearest_axis, out)
    return result


def _resample_channel(
    source_zyx: np.ndarray, nearest_axis: int | None, result_zyx: np.ndarray
) -> None:
    edges = tuple(zip(source_zyx.shape, result_zyx.shape, strict=True))
    taps = [
        nearest_taps(*edge) if axis == nearest_axis or edge[0] == edge[1] else cubic_taps(*edge)
        for axis, edge in enumerate(edges)
    ]
    cubic_axes = [axis for axis in range(3) if axis != nearest_axis and len(set(edges[axis])) > 1]
    # Axes that shrink most go first: less is left to do for the others.
    cubic_axes.sort(key=lambda axis: edges[axis][1] / edges[axis][0])
    lowest, highest = _ranges(source_zyx, nearest_axis)
    plane_voxels = max(source_zyx.size / len(result_zyx), result_zyx[0].size)
    for planes in planes_of(len(result_zyx), plane_voxels):
        here = taps[0].source(planes)
        within = [taps[0].part(planes), *taps[1:]]
        volume = np.asarray(source_zyx[here])
        for axis in cubic_axes:
            volume = apply_taps(volume, axis, within[axis])
        own = here if nearest_axis == 0 else slice(None)
        volume = np.clip(volume, lowest[own], highest[own])
        if nearest_axis is not None:
            volume = np.take(volume, within[nearest_axis].first, axis=nearest_axis)
        result_zyx[planes] = volume
        release(source_zyx)
        release(result_zyx)


def _ranges(source_zyx: np.ndarray, nearest_axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value, of each slice along `nearest_axis` if there is one."""
    axes = tuple(axis for axis in range(3) if axis != nearest_axis)
    slabs = [
        (slab.min(axis=axes, keepdims=True), slab.max(axis=axes, keepdims=True))
        for (slab,) in walk(source_zyx)
    ]
    lowest, highest = (np.concatenate(ends) for ends in zip(*slabs, strict=True))
    if nearest_axis != 0:
        lowest, highest = lowest.min(axis=0, keepdims=True), highest.max(axis=0, keepdims=True)
    return lowest, highest
