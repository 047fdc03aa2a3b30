"""NIfTI-1 and NIfTI-2 single files (`.nii`, `.nii.gz`): voxels and grid in, label files out.

The header comes from nibabel unrepaired; voxels are read a few planes at a time, whatever the size
of the file, and its checksum at the end. Header
pairs (`.hdr`/`.img`), Analyze files and files without a place in space are refused. Not for
orientation: arrays are as stored, `(C, k, j, i)`.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from nibabel.nifti1 import Nifti1Extension, Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from stunet.errors import VolumeError
from stunet.io.file_bytes import truncated
from stunet.io.file_stream import check_size, read_array, read_up_to, verified_stream
from stunet.io.grid import SourceGrid, check_affine
from stunet.io.label_table import decode_table, encode_table
from stunet.io.orientation import orientation_of
from stunet.io.slabs import Slab, StoredVolume
from stunet.io.spill import planes_of
from stunet.io.voxels import check_scalar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NIFTI1_BYTES, NIFTI2_BYTES = 348, 540  # header sizes, and the first field of each header
MAGIC = {NIFTI1_BYTES: (344, b"n+1\0"), NIFTI2_BYTES: (4, b"n+2\0")}  # offset and text
MM_UNITS = (0, 2)  # low three bits of xyzt_units: unknown, which everybody takes for mm, and mm
EXTENSION_FLAG_BYTES = 4  # behind the header; the first says whether extensions follow
SLAB_BYTES = 1 << 27  # decoded at a time
GZIP_LEVEL = 6


@contextmanager
def open_volume(path: Path) -> Iterator[StoredVolume]:
    """Yield physical voxel values and the stored grid; leaving the block verifies the checksum.

    The fourth axis of a 4-D file becomes the channels, as in the Medical Segmentation Decathlon.
    Integers stay integers (of the file's type) unless the header scales them.

    Raises:
        VolumeError: The file is damaged, no NIfTI, or has no usable geometry.
    """
    with verified_stream(path) as stream:
        header = _read_header(stream, path)
        shape = _shape(header, path)
        affine = _affine(header, path)
        channels = shape[3] if len(shape) > 3 else 1
        grid = SourceGrid(
            path=path,
            format="nifti",
            shape=shape if channels == 1 else shape[:3],
            affine=affine,
            orientation=orientation_of(affine),
            header=header,
        )
        dtype, scaling = _dtype(header, path), _scaling(header, path)
        offset = _voxel_offset(header, path)
        check_size(stream, offset + math.prod(shape) * dtype.itemsize, path)
        read_up_to(offset, stream)
        slabs = _slabs(stream, dtype, scaling, (channels, *shape[2::-1]), path)
        yield StoredVolume(grid, channels, dtype if scaling is None else np.dtype("f4"), slabs)


def encode(
    label_kji: np.ndarray,
    grid: SourceGrid,
    labels: Mapping[str, int] | None,
    compressed: bool,
) -> bytes:
    """Return the bytes of a NIfTI file that holds `label_kji` on the stored grid.

    For a NIfTI source every geometry field of its header is kept bit for bit, NIfTI-2 stays
    NIfTI-2; for other sources sform and qform hold the affine to float32. The source's extensions,
    description and display range are not: they are the image's, perhaps private. `labels` goes
    into a comment extension as JSON.
    """
    source = grid.header if isinstance(grid.header, Nifti1Header) else None
    header = source.copy() if source is not None else _header_for(grid.affine)
    header.set_data_shape(grid.shape)
    header.set_data_dtype(label_kji.dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("label")
    header["vox_offset"] = 0  # nibabel puts it behind the extensions
    for field in ("cal_min", "cal_max"):
        header[field] = 0
    for field in ("descrip", "aux_file"):
        header[field] = b""
    if labels:
        header.extensions.append(Nifti1Extension("comment", encode_table(labels).encode()))
    stream = io.BytesIO()
    header.write_to(stream)
    stream.write(label_kji.astype(header.get_data_dtype(), copy=False).tobytes())
    content = stream.getvalue()
    return gzip.compress(content, GZIP_LEVEL, mtime=0) if compressed else content


def label_table(path: Path) -> dict[str, int]:
    """Return the names in a label file's header extensions, empty if it has none.

    Source: NIfTI-1 header extensions, https://nifti.nimh.nih.gov/nifti-1/documentation/extension
    """
    with verified_stream(path) as stream:
        header = _read_header(stream, path)
        flag = stream.read(EXTENSION_FLAG_BYTES)
        data = read_up_to(_voxel_offset(header, path) if flag[:1] == b"\1" else 0, stream)
    place = 0
    while place + 8 < len(data):  # each: its length in bytes, a code, the text
        (length,) = struct.unpack_from(f"{header.endianness}i", data, place)
        text = data[place + 8 : place + max(length, 8)].rstrip(b"\0").decode(errors="replace")
        if table := decode_table(text):
            return table
        place += max(length, 16)
    return {}


def _read_header(stream: BinaryIO, path: Path) -> Nifti1Header:
    data = stream.read(4)
    for order in "<>":
        (size,) = struct.unpack(f"{order}i", data.ljust(4, b"\0"))
        if size in MAGIC:
            break
    else:
        raise VolumeError(f"{path}: is not a NIfTI image; check what the file holds")
    data += stream.read(size - len(data))
    if len(data) < size:
        raise VolumeError(truncated(path, len(data)))
    offset, text = MAGIC[size]
    found = data[offset : offset + 4]
    if found != text:
        raise VolumeError(
            f"{path}: magic {found!r} is not that of a single-file NIfTI; convert it to .nii.gz"
        )
    kind = Nifti1Header if size == NIFTI1_BYTES else Nifti2Header
    return kind(data[:size], endianness=order, check=False)


def _shape(header: Nifti1Header, path: Path) -> tuple[int, ...]:
    """The stored shape: three axes, then the channels, then trailing singletons."""
    dimensions = int(header["dim"][0])
    shape = tuple(int(size) for size in header["dim"][1 : 1 + max(dimensions, 0)])
    if not 3 <= dimensions <= 7 or any(size != 1 for size in shape[4:]):
        raise VolumeError(
            f"{path}: shape {shape} is {dimensions}-D; save three axes, or four with channels last"
        )
    if min(shape) < 1:
        raise VolumeError(f"{path}: shape {shape} has an empty axis; export the image again")
    return shape


def _affine(header: Nifti1Header, path: Path) -> np.ndarray:
    unit = int(header["xyzt_units"]) & 7
    if unit not in MM_UNITS:
        raise VolumeError(f"{path}: spatial unit code {unit} is not mm (2); convert it to mm")
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        raise VolumeError(
            f"{path}: has neither sform nor qform, so left and right are unknown; set one of them"
        )
    i, j, k = (float(side) for side in header["pixdim"][1:4])
    if not all(math.isfinite(side) and side != 0 for side in (i, j, k)):
        raise VolumeError(
            f"{path}: spacing ({i:.6g}, {j:.6g}, {k:.6g}) mm has a zero or is not finite;"
            " repair its header"
        )
    try:
        with np.errstate(all="ignore"):  # what overflows becomes non-finite and is refused
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise VolumeError(f"{path}: qform is invalid ({error}); repair its header") from error
    check_affine(affine, path)
    return affine


def _voxel_offset(header: Nifti1Header, path: Path) -> int:
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and offset >= header.sizeof_hdr):
        raise VolumeError(f"{path}: voxel offset {offset:g} is in the header; export it again")
    return int(offset)


def _dtype(header: Nifti1Header, path: Path) -> np.dtype:
    """The type of the stored numbers, in the file's byte order."""
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise VolumeError(f"{path}: voxel type {error} is unknown; export it again") from error
    check_scalar(dtype, path)
    return dtype


def _scaling(header: Nifti1Header, path: Path) -> tuple[float, float] | None:
    """Slope and intercept of the header, None where they change nothing."""
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise VolumeError(f"{path}: scaling is invalid ({error}); repair its header") from error
    return None if slope is None or (slope, intercept) == (1, 0) else (slope, intercept)


def _slabs(
    stream: BinaryIO,
    dtype: np.dtype,
    scaling: tuple[float, float] | None,
    shape_ckji: tuple[int, ...],
    path: Path,
) -> Iterator[Slab]:
    for channel in range(shape_ckji[0]):
        plane_voxels = math.prod(shape_ckji[2:])
        for planes in planes_of(shape_ckji[1], plane_voxels, SLAB_BYTES // dtype.itemsize):
            shape = (planes.stop - planes.start, *shape_ckji[2:])
            stored = read_array(stream, math.prod(shape), dtype, path).reshape(shape)
            yield Slab(channel, planes.start, _scaled(stored, scaling))


def _scaled(stored_kji: np.ndarray, scaling: tuple[float, float] | None) -> np.ndarray:
    if scaling is None:
        return stored_kji
    slope, intercept = (np.float64(value) for value in scaling)
    scaled = np.empty(stored_kji.shape, dtype=np.float32)
    with np.errstate(over="ignore"):  # infinite voxels are counted and refused later
        for out, plane in zip(scaled, stored_kji, strict=True):  # float64 for one plane at a time
            out[...] = plane * slope + intercept
    return scaled


def _header_for(affine: np.ndarray) -> Nifti1Header:
    header = Nifti1Header()
    header.set_data_shape((1, 1, 1))  # zooms need three axes
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header.set_xyzt_units("mm")
    return header
