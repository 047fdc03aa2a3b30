"""The text headers of NRRD and MetaImage, read only to check what ITK lets pass.

ITK ignores the checksum of a compressed NRRD, returns noise for a damaged MetaImage, takes a
non-finite offset for zero and invents an orientation where a file states none. Not for decoding:
that is `itk`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stunet.errors import VolumeError
from stunet.io.file_bytes import inflate, read_bytes, truncated
from stunet.io.grid import check_affine

if TYPE_CHECKING:
    from pathlib import Path

NRRD_SPACES = (  # those that ITK turns into its own, the first
    "left-posterior-superior",
    "right-anterior-superior",
    "left-anterior-superior",
    "lps",
    "ras",
    "las",
)


@dataclass(frozen=True)
class ItkHeader:
    """A text header and the voxel bytes that belong to it.

    Attributes:
        fields: The header's lines, name to value.
        payload: Voxels as they lie on disk.
        encoding: `raw`, `compressed` (gzip or zlib) or `other`.
    """

    fields: dict[str, str]
    payload: bytes
    encoding: str

    def check_voxel_bytes(self, expected: int, path: Path) -> None:
        """Refuse a payload that holds fewer than `expected` bytes or fails its checksum.

        Raises:
            VolumeError: Truncated or damaged.
        """
        voxels = inflate(self.payload, path) if self.encoding == "compressed" else self.payload
        if self.encoding != "other" and len(voxels) < expected:
            raise VolumeError(truncated(path, len(self.payload)))


def read_nrrd_header(path: Path) -> ItkHeader:
    """Return the header of an NRRD whose geometry is complete, finite and right-angled.

    Raises:
        VolumeError: Not an NRRD, or without a usable geometry.
    """
    data = read_bytes(path)
    if not data.startswith(b"NRRD"):
        raise VolumeError(f"{path}: is not an NRRD image; check what the file holds")
    blank = re.search(rb"\r?\n\r?\n", data)
    text, payload = (data[: blank.start()], data[blank.end() :]) if blank else (data, b"")
    lines = (line.partition(": ") for line in text.decode("latin-1").splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    if fields.get("space", "").lower() not in NRRD_SPACES:
        raise VolumeError(
            f"{path}: space {fields.get('space')!r} does not say where left is; use"
            " left-posterior-superior"
        )
    directions = _numbers(fields, "space directions", 9, path)
    _check(directions, _numbers(fields, "space origin", 3, path), path)
    if detached := fields.get("data file", fields.get("datafile")):
        payload = _detached(path, detached)
    kinds = {"raw": "raw", "gzip": "compressed", "gz": "compressed"}
    return ItkHeader(fields, payload, kinds.get(fields.get("encoding", ""), "other"))


def read_metaimage_header(path: Path) -> ItkHeader:
    """Return the header of a MetaImage whose geometry is complete, finite and right-angled.

    Raises:
        VolumeError: Not a MetaImage, or without a usable geometry.
    """
    data = read_bytes(path)
    end = re.search(rb"(?m)^ElementDataFile *= *(.+?)\r?\n", data + b"\n")
    if not end:
        raise VolumeError(f"{path}: is not a MetaImage; check what the file holds")
    lines = (line.partition("=") for line in data[: end.end()].decode("latin-1").splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    spacing = _numbers(fields, "ElementSpacing", 3, path)
    directions = _numbers(fields, "TransformMatrix", 9, path)
    _check(directions.reshape(3, 3) * spacing[:, None], _numbers(fields, "Offset", 3, path), path)
    location = fields["ElementDataFile"]
    payload = data[end.end() :] if location == "LOCAL" else _detached(path, location)
    if fields.get("CompressedData", "False").lower() == "true":
        return ItkHeader(fields, payload, "compressed")
    binary = fields.get("BinaryData", "False").lower() == "true"
    return ItkHeader(fields, payload, "raw" if binary else "other")


def _numbers(fields: dict[str, str], name: str, count: int, path: Path) -> np.ndarray:
    """The numbers of one field; `none` stands for the vector axis of an NRRD and is passed over."""
    value = fields.get(name, "")
    words = [word for word in re.split(r"[\s(),]+", value) if word not in ("", "none")]
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) != count:
        raise VolumeError(
            f"{path}: field {name!r} is {value!r}, not {count} numbers; save it as one volume with"
            " three axes and an orientation"
        )
    return numbers


def _check(columns: np.ndarray, origin: np.ndarray, path: Path) -> None:
    """Nine numbers: the step along i, j and k. Shear is the same in whatever space they are."""
    affine = np.eye(4)
    affine[:3, :3] = columns.reshape(3, 3).T
    affine[:3, 3] = origin
    check_affine(affine, path)


def _detached(path: Path, name: str) -> bytes:
    if name.upper().startswith("LIST") or "%" in name:
        raise VolumeError(f"{path}: has its voxels in several files; convert it to one file")
    return read_bytes(path.parent / name)
