"""The grid a file stores its voxels on, and whether a grid can be used at all.

A `SourceGrid` is all that is needed to put labels back exactly where the image came from. Not for
voxel values (`voxels`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from stunet.errors import VolumeError

if TYPE_CHECKING:
    from pathlib import Path

    from nibabel.nifti1 import Nifti1Header

    from stunet.io.orientation import Orientation
    from stunet.types import Size3

MAX_SHEAR = 1e-3  # cosine between two axes; moves a voxel 0.5 mm at the far side of a 500 mm body

Format = Literal["nifti", "nrrd", "metaimage", "dicom"]


class ItkGeometry(NamedTuple):
    """Geometry as ITK keeps it: LPS+ mm, axes i, j, k; `direction` is row-major 3x3."""

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class SourceGrid:
    """The grid of a file as stored, before orientation.

    Attributes:
        path: The file, or the folder of a DICOM series.
        format: How it is stored.
        shape: Stored shape i, j, k, with trailing singleton axes where the file has them, without
            the channel axis.
        affine: (4, 4) float64, stored index `(i, j, k, 1)` to RAS+ mm, bit-equal to the file's.
        orientation: The swaps and flips to RAS+.
        header: What the file's own format needs to be written again; None for DICOM.
    """

    path: Path
    format: Format
    shape: tuple[int, ...]
    affine: np.ndarray
    orientation: Orientation
    header: Nifti1Header | ItkGeometry | None


def check_affine(affine: np.ndarray, path: Path) -> None:
    """Accept an affine of finite numbers whose axes have a length and stand at right angles.

    Raises:
        VolumeError: Non-finite entries, a zero spacing, or shear.
    """
    if not np.isfinite(affine).all():
        raise VolumeError(f"{path}: affine {_rows(affine)} is not finite; repair its header")
    columns = affine[:3, :3]
    lengths = np.sqrt(np.square(columns).sum(axis=0))
    if not (lengths > 0).all():
        i, j, k = (f"{length:.6g}" for length in lengths)
        raise VolumeError(f"{path}: spacing ({i}, {j}, {k}) mm has a zero; repair its header")
    cosines = (columns / lengths).T @ (columns / lengths)
    for first, second in itertools.combinations(range(3), 2):
        if abs(cosines[first, second]) > MAX_SHEAR:
            angle = np.degrees(np.arccos(np.clip(cosines[first, second], -1, 1)))
            raise VolumeError(
                f"{path}: sheared affine: axes {'ijk'[first]} and {'ijk'[second]} meet at"
                f" {angle:.2f} degrees instead of 90 (a tilted gantry?); resample it onto a"
                " right-angled grid first"
            )


def check_same_grid(
    path: Path, affine: np.ndarray, like_path: Path, like_affine: np.ndarray, shape_zyx: Size3
) -> None:
    """Accept two oriented affines that place every voxel within a tenth of a voxel side.

    The distance between two affine maps is greatest at a corner of the volume, so corners suffice.

    Raises:
        VolumeError: They differ by more; the message gives the distance in mm.
    """
    corners_xyz = itertools.product(*((0, size - 1) for size in reversed(shape_zyx)))
    corners = np.array([(*corner, 1) for corner in corners_xyz], dtype=np.float64).T
    apart_mm = float(np.linalg.norm(((affine - like_affine) @ corners)[:3], axis=0).max())
    tolerance_mm = 0.1 * float(np.sqrt(np.square(like_affine[:3, :3]).sum(axis=0)).min())
    if apart_mm > tolerance_mm:
        raise VolumeError(
            f"{path}: lies up to {apart_mm:.4g} mm away from {like_path} (at most"
            f" {tolerance_mm:.2g} mm allowed); check that both are of the same scan, or resample"
            " one onto the other"
        )


def _rows(affine: np.ndarray) -> str:
    return "[" + "; ".join(" ".join(f"{x:.6g}" for x in row) for row in affine[:3]) + "]"
