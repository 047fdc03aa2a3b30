"""Rotation, scaling and mirroring as one affine resample of the smallest window that suffices.

A `SpatialDraw` says what happens, `plan_sampling` turns it into a matrix and the box of source
voxels that the patch needs, `resample_image` evaluates the image there; labels take the same
`Sampling` to `stunet.transforms.label_vote`. Nothing here draws numbers, which is the work of
`stunet.transforms.augment`, or reads files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from stunet.types import Size3, Spacing

ANISOTROPY_LIMIT = 3.0  # nnU-Net's ANISO_THRESHOLD: above it the thick axis is left alone
_GUARD = 1e-6  # voxels; far above the rounding of a coordinate, far below a meaningful shift


@dataclass(frozen=True)
class SpatialDraw:
    """What one patch goes through in space; plain numbers, so that it can be stored and replayed.

    Attributes:
        rotation_deg: How far the anatomy turns about the z, y and x axis, counter-clockwise when
            one looks from the positive end of the axis (right-hand rule in RAS+). The turn about x
            comes first, then y, then z.
        scale: Side of the sampled region over side of the patch, per z, y, x: above 1 the anatomy
            looks smaller.
        mirror: Whether the patch is flipped along z, y, x; the last of the three steps.
    """

    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mirror: tuple[bool, bool, bool] = (False, False, False)

    @property
    def interpolates(self) -> bool:
        """Whether patch voxels fall between source voxels; mirroring alone is a plain copy."""
        return any(self.rotation_deg) or self.scale != (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Sampling:
    """Where each voxel of a patch comes from: `window index = matrix @ patch index + offset`.

    Attributes:
        matrix: (3, 3) float64 over z, y, x; the convention of `scipy.ndimage.affine_transform`.
        offset: (3,) float64, relative to the first voxel of the window.
        window_start: First source voxel of the window, z y x; may lie outside the volume.
        window_shape: Size of the window; every corner that interpolation touches is inside.
        patch_size: Size of the patch, z y x.
    """

    matrix: np.ndarray
    offset: np.ndarray
    window_start: Size3
    window_shape: Size3
    patch_size: Size3


def thick_axis(spacing_mm: Spacing) -> int | None:
    """Return the axis (0 z, 1 y, 2 x) whose spacing exceeds `ANISOTROPY_LIMIT` times the finest.

    Turning or scaling through thick slices would invent structure between them, so only the plane
    across this axis is transformed. nnU-Net decides by the patch's shape and always takes the first
    axis; we decide by the spacing, as scans of any orientation are turned to RAS+.

    >>> thick_axis((5.0, 1.0, 1.0))
    0
    >>> thick_axis((1.5, 1.5, 1.5)) is None
    True
    """
    thickest = max(spacing_mm)
    return spacing_mm.index(thickest) if thickest > ANISOTROPY_LIMIT * min(spacing_mm) else None


def plan_sampling(
    draw: SpatialDraw, spacing_mm: Spacing, start_zyx: Size3, patch_size: Size3
) -> Sampling:
    """Find where the voxels of a patch come from and the smallest box that holds them.

    The rotation acts in millimetres: with unequal spacing a rotation in voxels, as nnU-Net does it,
    would shear the anatomy. It turns about the centre of the patch.

    Args:
        draw: The transform.
        spacing_mm: Voxel spacing of the volume, z y x.
        start_zyx: First voxel of the untransformed patch in the volume; may be negative.
        patch_size: Patch in voxels, z y x.
    """
    spacing = np.asarray(spacing_mm, np.float64)
    zoom_and_flip = np.asarray(draw.scale) * np.where(draw.mirror, -1.0, 1.0)
    turn = _rotation_zyx(draw.rotation_deg).T  # from the patch back to the source: the inverse
    matrix = turn * (spacing * zoom_and_flip)[None, :] / spacing[:, None]

    to_centre = (np.asarray(patch_size) - 1) / 2
    centre = np.asarray(start_zyx) + to_centre
    reach = np.abs(matrix) @ to_centre
    first = np.floor(centre - reach - _GUARD).astype(int)
    last = np.floor(centre + reach + _GUARD).astype(int) + 1  # the upper corner of interpolation
    return Sampling(
        matrix=matrix,
        offset=centre - matrix @ to_centre - first,
        window_start=(int(first[0]), int(first[1]), int(first[2])),
        window_shape=tuple((last - first + 1).tolist()),
        patch_size=patch_size,
    )


def resample_image(window_czyx: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Interpolate a window trilinearly at the voxels of a patch.

    Args:
        window_czyx: float32 (C, *sampling.window_shape), 0 where the box leaves the volume.
        sampling: From `plan_sampling`.

    Returns:
        float32 (C, D, H, W) of `sampling.patch_size`.
    """
    assert window_czyx.shape[1:] == sampling.window_shape, "the kernel does not check bounds"
    patch = np.empty((len(window_czyx), *sampling.patch_size), np.float32)
    for window, channel in zip(np.ascontiguousarray(window_czyx), patch, strict=True):
        _trilinear(window, sampling.matrix, sampling.offset, channel)
    return patch


def mirror(array: np.ndarray, axes: tuple[bool, bool, bool]) -> np.ndarray:
    """Flip the last three axes (z, y, x) where `axes` says so; returns a view."""
    step = tuple(slice(None, None, -1) if flip else slice(None) for flip in axes)
    return array[(..., *step)]


def _rotation_zyx(angles_deg: tuple[float, float, float]) -> np.ndarray:
    """Return the rotation matrix over (z, y, x) vectors: about x first, then y, then z."""
    about_z, about_y, about_x = np.deg2rad(angles_deg)
    (cz, cy, cx), (sz, sy, sx) = (
        np.cos([about_z, about_y, about_x]),
        np.sin([about_z, about_y, about_x]),
    )
    turn_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])  # these three over (x, y, z)
    turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return (turn_z @ turn_y @ turn_x)[::-1, ::-1]


@numba.njit(cache=True)
def _trilinear(
    window: np.ndarray, matrix: np.ndarray, offset: np.ndarray, patch: np.ndarray
) -> None:
    D, H, W = patch.shape
    for z in range(D):
        for y in range(H):
            row = matrix[:, 0] * z + matrix[:, 1] * y + offset
            for x in range(W):
                pz = row[0] + matrix[0, 2] * x
                py = row[1] + matrix[1, 2] * x
                px = row[2] + matrix[2, 2] * x
                k, j, i = int(pz), int(py), int(px)  # not negative inside the window: the floor
                fz, fy, fx = np.float32(pz - k), np.float32(py - j), np.float32(px - i)
                low, high = window[k, j : j + 2, i : i + 2], window[k + 1, j : j + 2, i : i + 2]
                below = _mix(_mix(low[0, 0], low[0, 1], fx), _mix(low[1, 0], low[1, 1], fx), fy)
                above = _mix(_mix(high[0, 0], high[0, 1], fx), _mix(high[1, 0], high[1, 1], fx), fy)
                patch[z, y, x] = _mix(below, above, fz)


@numba.njit(cache=True)
def _mix(a: np.float32, b: np.float32, fraction: np.float32) -> np.float32:
    return a + fraction * (b - a)
