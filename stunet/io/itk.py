"""NRRD and MetaImage files (`.nrrd`, `.mha`, `.mhd`) through SimpleITK: voxels in, labels out.

`itk_header` checks first what ITK would let pass. Not for DICOM (`dicom`) nor for orientation:
arrays are as stored, `(C, k, j, i)`.
"""

from __future__ import annotations

import math
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the customary name

from stunet.errors import VolumeError
from stunet.io.grid import ItkGeometry, SourceGrid
from stunet.io.itk_header import read_metaimage_header, read_nrrd_header
from stunet.io.label_table import decode_table, encode_table
from stunet.io.orientation import orientation_of
from stunet.io.voxels import check_scalar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
MAX_TABLE_BYTES = 32_000  # MetaImage cannot read a header line above 32768 bytes


def read(path: Path) -> tuple[np.ndarray, SourceGrid]:
    """Return voxel values `(C, k, j, i)` and the stored grid; vector components become channels.

    Raises:
        VolumeError: The file is damaged, no such image, or has no usable geometry.
    """
    nrrd = path.suffix.lower() == ".nrrd"
    header = read_nrrd_header(path) if nrrd else read_metaimage_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with itk_errors(path):
        reader.ReadImageInformation()
        size, components = reader.GetSize(), reader.GetNumberOfComponents()
        one_voxel = sitk.Image((1, 1, 1), reader.GetPixelID(), components)
    voxel_bytes = one_voxel.GetSizeOfPixelComponent() * components
    header.check_voxel_bytes(math.prod(size) * voxel_bytes, path)
    with itk_errors(path):
        image = reader.Execute()
    values = sitk.GetArrayFromImage(image)
    check_scalar(values.dtype, path)
    geometry = ItkGeometry(image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    affine = affine_of(geometry)
    grid = SourceGrid(
        path=path,
        format="nrrd" if nrrd else "metaimage",
        shape=size,
        affine=affine,
        orientation=orientation_of(affine),
        header=geometry,
    )
    return (values[None] if components == 1 else np.moveaxis(values, -1, 0)), grid


def encode(
    label_kji: np.ndarray, grid: SourceGrid, labels: Mapping[str, int] | None, suffix: str
) -> bytes:
    """Return the bytes of a compressed NRRD or MHA file that holds `label_kji` on the stored grid.

    `labels` becomes the header field `labels`, as JSON.

    Raises:
        VolumeError: The label table is too long for a header line.
    """
    image = sitk.GetImageFromArray(label_kji)
    geometry = grid.header if isinstance(grid.header, ItkGeometry) else geometry_of(grid.affine)
    image.SetOrigin(geometry.origin)
    image.SetSpacing(geometry.spacing)
    image.SetDirection(geometry.direction)
    if labels:
        table = encode_table(labels)
        if len(table) > MAX_TABLE_BYTES:
            raise VolumeError(
                f"{grid.path}: a label table of {len(table)} bytes does not fit into {suffix};"
                " write .nii.gz"
            )
        image.SetMetaData("labels", table)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"label{suffix}"
        sitk.WriteImage(image, str(file), useCompression=True)
        return file.read_bytes()


def label_table(path: Path) -> dict[str, int]:
    """Return the names in a label file's header, empty if it has none."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with itk_errors(path):
        reader.ReadImageInformation()
    return decode_table(reader.GetMetaData("labels")) if reader.HasMetaDataKey("labels") else {}


def affine_of(geometry: ItkGeometry) -> np.ndarray:
    """Return the (4, 4) affine, index `(i, j, k, 1)` to RAS+ mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    affine[:3, 3] = geometry.origin
    affine[:3] *= LPS_TO_RAS[:, None]
    return affine


def geometry_of(affine: np.ndarray) -> ItkGeometry:
    """Return what ITK calls origin, spacing and direction: the inverse of `affine_of`."""
    columns = affine[:3, :3] * LPS_TO_RAS[:, None]
    spacing = np.sqrt(np.square(columns).sum(axis=0))
    return ItkGeometry(
        origin=tuple((affine[:3, 3] * LPS_TO_RAS).tolist()),
        spacing=tuple(spacing.tolist()),
        direction=tuple((columns / spacing).ravel().tolist()),
    )


@contextmanager
def itk_errors(path: Path) -> Iterator[None]:
    """Turn an exception of ITK, which spans many lines, into a `VolumeError` of one line."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"\(0x[0-9a-f]+\)", "", str(error)).strip().splitlines()[-1].strip()
        raise VolumeError(f"{path}: cannot be decoded ({reason}); export it again") from error
