"""Images and labels in world space: what a file holds, oriented once, and put back exactly.

Reads NIfTI, NRRD, MetaImage and DICOM series. Inside, every array is `(C, z, y, x)` with x to the
patient's Right, y to Anterior, z to Superior (RAS+ by swaps and flips; oblique axes stay oblique).
Not for the prepared store (`store`) nor for resampling.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stunet.errors import VolumeError
from stunet.io import dicom, itk, nifti
from stunet.io.atomic import atomic_write_bytes
from stunet.io.grid import SourceGrid, check_affine, check_same_grid
from stunet.io.orientation import orientation_of, spacing_zyx_mm
from stunet.io.slabs import Slab, StoredVolume, one_slab_per_channel
from stunet.io.spill import Allocate, copy_into, release, walk
from stunet.io.voxels import as_image, as_label, check_scalar, label_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from stunet.types import Size3, Spacing

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
WRITABLE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha")  # .mhd would be two files: never atomic


@dataclass(frozen=True, eq=False)
class Volume:
    """An oriented image or label and the grid it came from.

    Attributes:
        array: `(C, z, y, x)`, contiguous and writable; in a file if a `Spill` made it so.
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


def read_image(path: str | Path, allocate: Allocate = np.empty) -> Volume:
    """Read a `.nii`, `.nii.gz`, `.nrrd`, `.mha`, `.mhd` file or the folder of one DICOM series.

    The array is int16 or int32 where the file stores integers without scaling (or a DICOM series
    rescales to integers), else float32. The fourth axis of a 4-D NIfTI and the vector components
    of an NRRD or MetaImage become channels.

    Args:
        path: The file or folder.
        allocate: Makes the array. With a `Spill` a NIfTI file of any size takes little memory;
            other formats are decoded in memory first.

    Raises:
        VolumeError: What cannot be used as it is; one line with file, value and next action.
    """
    with _open(Path(path)) as stored:
        return _oriented(stored, as_image, allocate)


def volume_of_array(array: np.ndarray, affine: np.ndarray) -> Volume:
    """Return an image in memory as if it had been read from a file.

    Args:
        array: (X, Y, Z) or (X, Y, Z, C), as nibabel gives it.
        affine: (4, 4), voxel index `(i, j, k, 1)` to RAS+ mm.

    Raises:
        VolumeError: Another number of axes, voxels or an affine that cannot be used.
    """
    name, affine = Path("array"), np.array(affine, dtype=np.float64)
    if array.ndim not in (3, 4) or array.size == 0 or affine.shape != (4, 4):
        raise VolumeError(
            f"{name}: shape {array.shape} with an affine {affine.shape}; give (X, Y, Z) or "
            "(X, Y, Z, C) and (4, 4)"
        )
    check_scalar(array.dtype, name)
    check_affine(affine, name)
    i, j, k = array.shape[:3]
    grid = SourceGrid(name, "nifti", (i, j, k), affine, orientation_of(affine), None)
    stored_ckji = array.reshape(i, j, k, -1).transpose(3, 2, 1, 0)
    return _oriented(one_slab_per_channel(stored_ckji, grid), as_image, np.empty)


def read_label(
    path: str | Path, like: Volume | None = None, allocate: Allocate = np.empty
) -> Volume:
    """Read integer labels as uint8 or uint16 `(1, z, y, x)`; float files may hold exact integers.

    Args:
        path: As in `read_image`.
        like: The image it belongs to. Shape must be equal and no voxel may lie further from its
            counterpart than a tenth of the smallest voxel side; the stored orientation may differ.
        allocate: As in `read_image`.

    Raises:
        VolumeError: As `read_image`; values that are no labels; another grid than `like`.
    """
    with _open_label(Path(path), like) as stored:
        return _oriented(stored, as_label, allocate)


def read_label_folder(
    folder: str | Path, labels: Mapping[str, int], like: Volume, allocate: Allocate = np.empty
) -> Volume:
    """Merge one binary mask per structure, `<name>.nii.gz`, into one label map.

    Where masks overlap, the higher label value wins. A label of value 0 needs no file; masks that
    `labels` does not name are left out.

    Raises:
        VolumeError: A named mask is absent, is not binary or lies on another grid than `like`.
    """
    dtype = label_dtype(max(labels.values(), default=0))
    merged_czyx = allocate((1, *like.shape_zyx), dtype)
    for (planes,) in walk(merged_czyx[0]):
        planes[...] = 0
    for name, value in sorted(labels.items(), key=lambda item: item[1]):
        if value != 0:
            _paint_mask(Path(folder) / f"{name}.nii.gz", value, merged_czyx, like)
    return Volume(merged_czyx, like.affine, like.source)


def _paint_mask(path: Path, value: int, merged_czyx: np.ndarray, like: Volume) -> None:
    found: set[int] = set()
    with _open_label(path, like) as stored:
        for slab in stored.slabs:
            mask = as_label(slab.values_kji, _place(slab, stored))
            if not mask.any():
                continue
            found |= {int(mask[mask > 0].min()), int(mask.max())}
            if len(found) > 1:
                raise VolumeError(
                    f"{path}: is not a binary mask: largest value {max(found)}; save 0 and 1 only"
                )
            target, source = _aligned(merged_czyx, slab, mask, stored.grid)
            target[source > 0] = value
            release(merged_czyx)


def combine_channels(volumes: Sequence[Volume], allocate: Allocate = np.empty) -> Volume:
    """Stack the files of one case along the channel axis; the first gives the grid for output.

    Raises:
        VolumeError: A file does not share the grid of the first.
    """
    first = volumes[0]
    for other in volumes[1:]:
        try:
            _check_like(other.source, first)
        except VolumeError as error:
            hint = "if they are registered, 'stunet data align' brings them onto one grid"
            raise VolumeError(f"{error}; {hint}") from None
    dtype = max((volume.array.dtype for volume in volumes), key=_width)
    sources = [channel for volume in volumes for channel in volume.array]
    stacked = allocate((len(sources), *first.shape_zyx), dtype)
    for target, source in zip(stacked, sources, strict=True):
        copy_into(target, source)
    return Volume(stacked, first.affine, first.source)


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


def _open(path: Path) -> AbstractContextManager[StoredVolume]:
    if path.is_dir():
        return nullcontext(one_slab_per_channel(*dicom.read(path)))
    suffix = _suffix(path)
    if suffix in NIFTI_SUFFIXES:
        return nifti.open_volume(path)
    if suffix in ITK_SUFFIXES:
        return nullcontext(one_slab_per_channel(*itk.read(path)))
    known = ", ".join(VOLUME_SUFFIXES)
    raise VolumeError(
        f"{path}: unknown type {suffix!r}; give {known} or the folder of a DICOM series"
    )


@contextmanager
def _open_label(path: Path, like: Volume | None) -> Iterator[StoredVolume]:
    with _open(path) as stored:
        if stored.channels != 1:
            raise VolumeError(
                f"{path}: holds {stored.channels} channels; save one label map per file"
            )
        if like is not None:
            _check_like(stored.grid, like)
        yield stored


def file_stem(path: Path) -> str:
    """A volume's name without the ending of its type; the whole name of a DICOM folder.

    >>> file_stem(Path("scans/liver_12.nii.gz"))
    'liver_12'
    """
    return path.name if path.is_dir() else path.name[: len(path.name) - len(_suffix(path))]


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _oriented(
    stored: StoredVolume,
    convert: Callable[[np.ndarray, Path | str], np.ndarray],
    allocate: Allocate,
) -> Volume:
    """Bring the slabs of a file to their places in an oriented array of the type they need."""
    shape = (stored.channels, *_shape_zyx(stored.grid))
    array = None
    for slab in stored.slabs:
        values = convert(slab.values_kji, _place(slab, stored))
        if array is None:
            array = allocate(shape, values.dtype)
        elif _width(values.dtype) > _width(array.dtype):
            array = _converted(array, values.dtype, allocate)
        copy_into(*_aligned(array, slab, values, stored.grid))
    assert array is not None, "a volume has at least one voxel"
    return Volume(array, _affine(stored.grid), stored.grid)


def _aligned(
    array_czyx: np.ndarray, slab: Slab, values_kji: np.ndarray, grid: SourceGrid
) -> tuple[np.ndarray, np.ndarray]:
    """The place of a slab in an oriented array, and its values turned alike; both `(z, y, x)`."""
    planes = slice(slab.first, slab.first + len(values_kji))
    place = grid.orientation.to_stored(array_czyx)[slab.channel, planes]
    target, source = (grid.orientation.to_zyx(part[None])[0] for part in (place, values_kji))
    return target, source


def _converted(array_czyx: np.ndarray, dtype: np.dtype, allocate: Allocate) -> np.ndarray:
    converted = allocate(array_czyx.shape, dtype)
    for target, source in zip(converted, array_czyx, strict=True):
        copy_into(target, source)
    return converted


def _width(dtype: np.dtype) -> tuple[bool, int]:
    """Orders the types of images and of labels: any integers fit into float32, if rounded."""
    return dtype.kind == "f", dtype.itemsize


def _place(slab: Slab, stored: StoredVolume) -> str:
    """What a message names: the file, and the channel and planes unless these are all."""
    place = str(stored.grid.path)
    if stored.channels > 1:
        place += f": channel {slab.channel}"
    if len(slab.values_kji) < stored.grid.shape[2]:
        place += f": planes {slab.first} to {slab.first + len(slab.values_kji) - 1}"
    return place


def _shape_zyx(grid: SourceGrid) -> Size3:
    z, y, x = (grid.shape[axis] for axis in grid.orientation.axes)
    return (z, y, x)


def _affine(grid: SourceGrid) -> np.ndarray:
    return grid.orientation.affine(grid.affine, _shape_zyx(grid))


def _check_like(grid: SourceGrid, like: Volume) -> None:
    if _shape_zyx(grid) != like.shape_zyx:
        raise VolumeError(
            f"{grid.path}: shape {_shape_zyx(grid)} (z, y, x) is not that of {like.source.path},"
            f" {like.shape_zyx}; check that both are of the same scan"
        )
    check_same_grid(grid.path, _affine(grid), like.source.path, like.affine, like.shape_zyx)
