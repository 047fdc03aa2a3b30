"""One orientation for all arrays: RAS+ by swapping and flipping axes, never by resampling.

An image is *stored* along its file's axes i, j, k (i fastest) and *oriented* along z, y, x, which
run closest to Superior, Anterior and Right. Oblique affines stay oblique. Not for checking
affines (`grid`) nor for files.

Stored arrays are `(C, k, j, i)`, oriented arrays `(C, z, y, x)`; affines map `(i, j, k, 1)` or
`(x, y, z, 1)` to RAS+ mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.orientations import aff2axcodes, io_orientation

if TYPE_CHECKING:
    from stunet.types import Size3, Spacing


@dataclass(frozen=True)
class Orientation:
    """How stored axes become z, y, x.

    Attributes:
        axes: The stored axis (0 = i, 1 = j, 2 = k) that becomes z, y, x.
        flips: Whether z, y, x run against that stored axis.
    """

    axes: Size3
    flips: tuple[bool, bool, bool]

    def to_zyx(self, stored_ckji: np.ndarray) -> np.ndarray:
        """Return a view `(C, z, y, x)` of a stored array `(C, k, j, i)`."""
        oriented = stored_ckji.transpose(0, *(3 - axis for axis in self.axes))
        return oriented[self._slices()]

    def to_stored(self, oriented_czyx: np.ndarray) -> np.ndarray:
        """Return a view `(C, k, j, i)` of an oriented array: the inverse of `to_zyx`."""
        position = {axis: 1 + place for place, axis in enumerate(self.axes)}
        return oriented_czyx[self._slices()].transpose(0, position[2], position[1], position[0])

    def affine(self, stored_affine: np.ndarray, shape_zyx: Size3) -> np.ndarray:
        """Return the affine of the oriented array, index `(x, y, z, 1)` to RAS+ mm."""
        oriented = np.array(stored_affine, dtype=np.float64)
        for place, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            column = stored_affine[:3, axis]
            oriented[:3, 2 - place] = -column if flip else column
            if flip:
                oriented[:3, 3] += column * (shape_zyx[place] - 1)
        return oriented

    def _slices(self) -> tuple[slice, ...]:
        return (slice(None), *(slice(None, None, -1 if flip else None) for flip in self.flips))


def orientation_of(affine: np.ndarray) -> Orientation:
    """Return the swaps and flips that bring the stored axes of `affine` closest to RAS+.

    Source: nearest signed permutation as in `nibabel.orientations.io_orientation`.
    """
    target, direction = io_orientation(affine).T  # per stored axis: 0 R, 1 A, 2 S, and its sign
    axes = tuple(int(np.flatnonzero(target == world)[0]) for world in (2, 1, 0))
    return Orientation(
        axes=(axes[0], axes[1], axes[2]),
        flips=(
            bool(direction[axes[0]] < 0),
            bool(direction[axes[1]] < 0),
            bool(direction[axes[2]] < 0),
        ),
    )


def axis_codes(affine: np.ndarray) -> str:
    """Return where the axes of `affine` point to, e.g. `LPS`: i to Left, j to Posterior, k up."""
    return "".join(aff2axcodes(affine))


def spacing_zyx_mm(affine: np.ndarray) -> Spacing:
    """Return the voxel size in mm along the last, second and first axis of `affine`."""
    x, y, z = np.sqrt(np.square(affine[:3, :3]).sum(axis=0)).tolist()
    return (z, y, x)
