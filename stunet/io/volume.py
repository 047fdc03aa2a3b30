"""Images and labels in world space: what a file holds, oriented once, and put back exactly.

Reads NIfTI, NRRD, MetaImage and DICOM series. Inside, every array is `(C, z, y, x)` with x to the
patient's Right, y to Anterior, z to Superior (RAS+ by swaps and flips; oblique axes stay oblique).
Not for the prepared store (`store`) nor for resampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stunet.errors import VolumeError
from stunet.io import dicom, itk, nifti
from stunet.io.atomic import atomic_write_bytes
from stunet.io.grid import SourceGrid, check_same_grid
from stunet.io.orientation import spacing_zyx_mm
from stunet.io.voxels import as_image, as_label, label_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stunet.types import Size3, Spacing

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
WRITABLE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha")  # .mhd would be two files: never atomic


@dataclass(frozen=True, eq=False)
class Volume:
    """An oriented image or label and the grid it came from.

    Attributes:
        array: `(C, z, y, x)`, contiguous and writable.
        affine: (4, 4) float64, voxel index `(x, y, z, 1)` to RAS+ mm.
        source: The file's own grid, for writing labels back.
    """

    array: np.ndarray
    affine: np.ndarray
    source: SourceGrid

    @property
    def spacing_mm(self) -> Spacing:
        """Voxel size z, y, x."""
        return spacing_zyx_mm(self.affine)

    @property
    def shape_zyx(self) -> Size3:
        """Voxels along z, y, x."""
        _, z, y, x = self.array.shape
        return (z, y, x)


def read_image(path: str | Path) -> Volume:
    """Read a `.nii`, `.nii.gz`, `.nrrd`, `.mha`, `.mhd` file or the folder of one DICOM series.

    The array is int16 or int32 where the file stores integers without scaling (or a DICOM series
    rescales to integers), else float32. The fourth axis of a 4-D NIfTI and the vector components
    of an NRRD or MetaImage become channels.

    Raises:
        VolumeError: What cannot be used as it is; one line with file, value and next action.
    """
    stored, grid = _read(Path(path))
    return _oriented(as_image(stored, grid.path), grid)


def read_label(path: str | Path, like: Volume | None = None) -> Volume:
    """Read integer labels as uint8 or uint16 `(1, z, y, x)`; float files may hold exact integers.

    Args:
        path: As in `read_image`.
        like: The image it belongs to. Shape must be equal and no voxel may lie further from its
            counterpart than a tenth of the smallest voxel side; the stored orientation may differ.

    Raises:
        VolumeError: As `read_image`; values that are no labels; another grid than `like`.
    """
    stored, grid = _read(Path(path))
    if stored.shape[0] != 1:
        raise VolumeError(f"{path}: holds {stored.shape[0]} channels; save one label map per file")
    label = _oriented(as_label(stored, grid.path), grid)
    if like is not None:
        _check_like(label, like)
    return label


def read_label_folder(folder: str | Path, labels: Mapping[str, int], like: Volume) -> Volume:
    """Merge one binary mask per structure, `<name>.nii.gz`, into one label map.

    Where masks overlap, the higher label value wins. A label of value 0 needs no file; masks that
    `labels` does not name are left out.

    Raises:
        VolumeError: A named mask is absent, is not binary or lies on another grid than `like`.
    """
    folder = Path(folder)
    merged = np.zeros((1, *like.shape_zyx), dtype=label_dtype(max(labels.values(), default=0)))
    for name, value in sorted(labels.items(), key=lambda item: item[1]):
        if value == 0:
            continue
        path = folder / f"{name}.nii.gz"
        mask = read_label(path, like).array
        inside = mask > 0
        if inside.any() and mask[inside].min() != mask.max():
            raise VolumeError(
                f"{path}: is not a binary mask: largest value {mask.max()}; save 0 and 1 only"
            )
        merged[inside] = value
    return Volume(merged, like.affine, like.source)


def combine_channels(volumes: Sequence[Volume]) -> Volume:
    """Stack the files of one case along the channel axis; the first gives the grid for output.

    Raises:
        VolumeError: A file does not share the grid of the first.
    """
    first = volumes[0]
    for other in volumes[1:]:
        _check_like(other, first)
    integers = all(volume.array.dtype.kind == "i" for volume in volumes)
    dtype = np.result_type(*(volume.array for volume in volumes)) if integers else np.float32
    arrays = [volume.array.astype(dtype, copy=False) for volume in volumes]
    return Volume(np.concatenate(arrays), first.affine, first.source)


def write_label(
    path: str | Path,
    label_zyx: np.ndarray,
    like: Volume,
    labels: Mapping[str, int] | None = None,
) -> None:
    """Write labels on the grid of the file that `like` was read from, atomically.

    The suffix decides the format: `.nii.gz`, `.nii`, `.nrrd` or `.mha`, for any source. From NIfTI
    to NIfTI the stored shape (trailing singleton axes too, without channels), affine, sform and
    qform codes, units, byte order and NIfTI version are the source's bit for bit; from NRRD or
    MetaImage to either, ITK's geometry is. Other pairs keep the affine to float32 (in NIfTI) or
    within 1 ulp. The same label gives the same bytes.

    Args:
        path: The file to write.
        label_zyx: Integers 0..65535, shape of `like`; stored as uint8 if they fit, else uint16.
        like: The image the labels belong to.
        labels: Structure names and values, kept in the header (see `read_label_table`).

    Raises:
        VolumeError: Wrong suffix, shape or values.
    """
    path = Path(path)
    suffix = _suffix(path)
    if suffix not in WRITABLE_SUFFIXES:
        raise VolumeError(f"{path}: cannot write this type; use {', '.join(WRITABLE_SUFFIXES)}")
    if label_zyx.shape != like.shape_zyx:
        raise VolumeError(
            f"{path}: label shape {label_zyx.shape} is not {like.shape_zyx}, that of"
            f" {like.source.path}; keep its axes z, y, x"
        )
    grid = like.source
    stored = np.ascontiguousarray(grid.orientation.to_stored(as_label(label_zyx, path)[None])[0])
    if suffix in NIFTI_SUFFIXES:
        data = nifti.encode(stored, grid, labels, compressed=suffix == ".nii.gz")
    else:
        data = itk.encode(stored, grid, labels, suffix)
    atomic_write_bytes(path, data)


def read_label_table(path: str | Path) -> dict[str, int]:
    """Return structure names and values that a label file carries, empty if it carries none.

    Raises:
        VolumeError: The file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return {}
    return nifti.label_table(path) if _suffix(path) in NIFTI_SUFFIXES else itk.label_table(path)


def _read(path: Path) -> tuple[np.ndarray, SourceGrid]:
    if path.is_dir():
        return dicom.read(path)
    suffix = _suffix(path)
    if suffix in NIFTI_SUFFIXES:
        return nifti.read(path)
    if suffix in ITK_SUFFIXES:
        return itk.read(path)
    known = ", ".join(VOLUME_SUFFIXES)
    raise VolumeError(
        f"{path}: unknown type {suffix!r}; give {known} or the folder of a DICOM series"
    )


def file_stem(path: Path) -> str:
    """A volume's name without the ending of its type; the whole name of a DICOM folder.

    >>> file_stem(Path("scans/liver_12.nii.gz"))
    'liver_12'
    """
    return path.name if path.is_dir() else path.name[: len(path.name) - len(_suffix(path))]


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _oriented(stored_ckji: np.ndarray, grid: SourceGrid) -> Volume:
    oriented = grid.orientation.to_zyx(stored_ckji)
    array = np.require(oriented, requirements=("C_CONTIGUOUS", "WRITEABLE"))
    _, z, y, x = array.shape
    return Volume(array, grid.orientation.affine(grid.affine, (z, y, x)), grid)


def _check_like(volume: Volume, like: Volume) -> None:
    path, like_path = volume.source.path, like.source.path
    if volume.shape_zyx != like.shape_zyx:
        raise VolumeError(
            f"{path}: shape {volume.shape_zyx} (z, y, x) is not that of {like_path},"
            f" {like.shape_zyx}; check that both are of the same scan"
        )
    check_same_grid(path, volume.affine, like_path, like.affine, like.shape_zyx)
