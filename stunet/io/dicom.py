"""One DICOM series in a folder, slice by slice through SimpleITK: voxels and grid in.

Slices are sorted by position along their normal and must be complete, evenly spaced and straight:
ITK's own series reader straightens a tilted gantry, closes the gap of a missing slice with a
warning at most, and drops files that it cannot read. Not for multi-frame files, nor for writing.
Arrays are as stored, `(1, k, j, i)`, with k along the normal.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the customary name

from stunet.errors import VolumeError
from stunet.io.grid import SourceGrid, check_affine
from stunet.io.itk import LPS_TO_RAS, itk_errors
from stunet.io.orientation import orientation_of
from stunet.io.voxels import check_scalar

if TYPE_CHECKING:
    from pathlib import Path

PREAMBLE_BYTES, MAGIC = 128, b"DICM"
MAX_PLACE_ERROR = 0.1  # of the slice step: how far a slice may lie from its even place
SAME_PLACE_MM = 1e-3
SAME_PLANE = 1e-4  # direction cosines and mm; files print them with about six digits

MODALITY, DESCRIPTION, SERIES = "0008|0060", "0008|103e", "0020|000e"
POSITION, DIRECTION, SPACING = "0020|0032", "0020|0037", "0028|0030"
SLICE_STEP, THICKNESS = "0018|0088", "0018|0050"


@dataclass(frozen=True, eq=False)
class _Slice:
    path: Path
    size: tuple[int, ...]
    series: str
    title: str
    position: np.ndarray  # (3,) LPS mm, of the first voxel
    plane: np.ndarray  # (8,) direction of i, direction of j, mm between rows, mm between columns
    thickness: str  # mm, or empty

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.plane[:3], self.plane[3:6])

    @property
    def place_mm(self) -> float:
        """Where the slice lies along its normal."""
        return float(self.position @ self.normal)


def read(folder: Path) -> tuple[np.ndarray, SourceGrid]:
    """Return rescaled voxel values (HU for CT) `(1, k, j, i)` and the stored grid.

    Raises:
        VolumeError: No series or several, an unreadable file, a missing or repeated slice, a
            tilted gantry, slices of different planes.
    """
    slices = _sorted_series(folder)
    _check_one_plane(slices, folder)
    affine = np.eye(4)
    affine[:3, 0] = slices[0].plane[:3] * slices[0].plane[7]
    affine[:3, 1] = slices[0].plane[3:6] * slices[0].plane[6]
    affine[:3, 2] = _step(slices, folder)
    affine[:3, 3] = slices[0].position
    affine[:3] *= LPS_TO_RAS[:, None]
    check_affine(affine, folder)
    columns, rows, _ = slices[0].size
    grid = SourceGrid(
        path=folder,
        format="dicom",
        shape=(columns, rows, len(slices)),
        affine=affine,
        orientation=orientation_of(affine),
        header=None,
    )
    return np.stack([_pixels(each.path) for each in slices])[None], grid


def series_files(folder: Path) -> list[Path]:
    """The files of the series in a folder, in the order of k.

    Raises:
        VolumeError: No series or several, an unreadable file.
    """
    return [each.path for each in _sorted_series(folder)]


def _sorted_series(folder: Path) -> list[_Slice]:
    return sorted(_one_series(folder), key=lambda each: each.place_mm)


def _one_series(folder: Path) -> list[_Slice]:
    files = (file for file in sorted(folder.iterdir()) if file.name != "DICOMDIR")
    series: dict[str, list[_Slice]] = defaultdict(list)
    for file in files:
        if file.is_file() and _has_magic(file):
            each = _read_header(file)
            series[each.series].append(each)
    if not series:
        raise VolumeError(f"{folder}: holds no DICOM image; give the folder of one series")
    if len(series) > 1:
        found = "; ".join(
            f"{uid or 'without UID'} ({slices[0].title}, {len(slices)} files)"
            for uid, slices in series.items()
        )
        raise VolumeError(
            f"{folder}: holds {len(series)} series: {found}; put each in a folder of its own"
        )
    return next(iter(series.values()))


def _has_magic(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(PREAMBLE_BYTES + len(MAGIC)).endswith(MAGIC)
    except OSError as error:
        raise VolumeError(f"{file}: cannot be read ({error.strerror}); check the path") from error


def _reader(file: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    return reader


def _read_header(file: Path) -> _Slice:
    reader = _reader(file)
    with itk_errors(file):
        reader.ReadImageInformation()
    size = reader.GetSize()
    if len(size) != 3 or size[2] != 1 or reader.GetNumberOfComponents() != 1:
        raise VolumeError(f"{file}: is a multi-frame or colour DICOM; convert it to .nii.gz")

    def text(tag: str) -> str:
        return reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""

    def numbers(tag: str, count: int) -> list[float]:
        try:
            values = [float(word) for word in text(tag).split("\\")]
        except ValueError:
            values = []
        if len(values) != count:
            raise VolumeError(
                f"{file}: tag ({tag.replace('|', ',')}) is {text(tag)!r}, not {count} numbers;"
                " export the series again"
            )
        return values

    return _Slice(
        path=file,
        size=size,
        series=text(SERIES),
        title=" ".join(filter(None, (text(MODALITY), text(DESCRIPTION)))) or "untitled",
        position=np.array(numbers(POSITION, 3)),
        plane=np.array(numbers(DIRECTION, 6) + numbers(SPACING, 2)),
        thickness=text(SLICE_STEP) or text(THICKNESS),
    )


def _check_one_plane(slices: list[_Slice], folder: Path) -> None:
    first = slices[0]
    for each in slices[1:]:
        if each.size != first.size or np.abs(each.plane - first.plane).max() > SAME_PLANE:
            raise VolumeError(
                f"{folder}: {each.path.name} has size, direction or pixel spacing other than"
                f" {first.path.name} (a localizer?); keep one volume per folder"
            )


def _step(slices: list[_Slice], folder: Path) -> np.ndarray:
    """The vector from one slice to the next, LPS mm, after checking that it is always the same."""
    if len(slices) == 1:
        try:
            return slices[0].normal * abs(float(slices[0].thickness))
        except ValueError as error:
            raise VolumeError(
                f"{folder}: holds one slice, of thickness {slices[0].thickness!r}; convert it to"
                " .nii.gz with a thickness"
            ) from error
    places = np.array([each.place_mm for each in slices])
    gaps = np.diff(places)
    narrow, wide = int(gaps.argmin()), int(gaps.argmax())
    if gaps[narrow] < SAME_PLACE_MM:
        raise VolumeError(
            f"{folder}: {slices[narrow].path.name} and {slices[narrow + 1].path.name} lie at the"
            " same position (a repeated slice or a time series?); keep one volume per folder"
        )
    positions = np.array([each.position for each in slices])
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    even = positions[0] + np.arange(len(slices))[:, None] * step
    apart_mm = np.linalg.norm(positions - even, axis=1).max()
    if apart_mm > MAX_PLACE_ERROR * np.linalg.norm(step):
        raise VolumeError(
            f"{folder}: slices are uneven: {gaps[wide]:.4g} mm between {slices[wide].path.name} and"
            f" {slices[wide + 1].path.name}, {np.median(gaps):.4g} mm elsewhere (a missing slice?);"
            " export the whole series again"
        )
    return step


def _pixels(file: Path) -> np.ndarray:
    """One slice `(j, i)`, rescaled by its own slope and intercept (they differ in PET)."""
    with itk_errors(file):
        values = sitk.GetArrayFromImage(_reader(file).Execute())[0]
    check_scalar(values.dtype, file)
    return values
