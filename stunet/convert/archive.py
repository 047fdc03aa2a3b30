"""The zip archive that `torch.save` writes: checked before anything of it is used, never extracted.

Only the standard library, since this runs in the process of `reading_process`.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from math import prod
from typing import BinaryIO

from stunet.convert.pickles import PICKLE_BYTES, Refused, StoredTensor

DTYPE_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
DTYPE_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1}
MEMBERS = 10**5
PIECE_BYTES = 2**20


class Archive:
    """Members of a checkpoint file.

    Raises:
        Refused: It is not a zip archive as `torch.save` writes it.
    """

    def __init__(self, file: BinaryIO) -> None:
        file_bytes = file.seek(0, os.SEEK_END)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            raise Refused("it is a damaged zip archive") from None
        members = self._zip.infolist()
        if not 0 < len(members) <= MEMBERS:
            raise Refused(f"it is a zip archive of {len(members)} members")
        for member in members:
            _check_member(member)
        names = [member.filename for member in members]
        if len(set(names)) < len(names) or sum(m.file_size for m in members) > file_bytes:
            raise Refused("it is a zip archive whose members lie over each other")
        self._root = names[0].partition("/")[0]
        self._members = {name.removeprefix(self._root + "/"): name for name in names}
        if "constants.pkl" in self._members or any(n.startswith("code/") for n in self._members):
            raise Refused("it is a TorchScript program, not a checkpoint")
        if "data.pkl" not in self._members:
            raise Refused("it is a zip archive without the data.pkl of a checkpoint")
        if "byteorder" in self._members and self._read("byteorder", 16) != b"little":
            raise Refused("its numbers are not little-endian")

    def pickle(self) -> bytes:
        """The bytes of the one pickle in it."""
        return self._read("data.pkl", PICKLE_BYTES)

    def check(self, name: str, tensor: StoredTensor) -> None:
        """Raise `Refused` unless the tensor lies in its storage and fills a range of it."""
        storage = tensor.storage
        member = f"data/{storage.member}"
        stored = self._zip.getinfo(self._members[member]) if member in self._members else None
        if stored is None or stored.file_size != storage.count * DTYPE_BYTES[storage.dtype]:
            raise Refused(f"the numbers of {name[:80]} are missing or cut short")
        if tensor.offset + prod(tensor.shape) > storage.count or not _is_dense(tensor):
            raise Refused(f"{name[:80]} does not fill a range of its storage")

    def pieces(self, tensor: StoredTensor) -> Iterator[bytes]:
        """The bytes of a tensor in the order that they are stored in, a piece at a time."""
        width = DTYPE_BYTES[tensor.storage.dtype]
        left = prod(tensor.shape) * width
        try:
            with self._zip.open(self._members[f"data/{tensor.storage.member}"]) as file:
                file.seek(tensor.offset * width)
                while left:
                    piece = file.read(min(left, PIECE_BYTES))
                    if not piece:
                        raise Refused("it is cut short")
                    left -= len(piece)
                    yield piece
        except zipfile.BadZipFile as error:
            raise Refused(f"it is damaged ({error})") from None

    def _read(self, name: str, most: int) -> bytes:
        member = self._zip.getinfo(self._members[name])
        if member.file_size > most:
            raise Refused(f"its {name} takes {member.file_size} bytes, above {most}")
        try:
            return self._zip.read(member)
        except zipfile.BadZipFile as error:
            raise Refused(f"it is damaged ({error})") from None


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.filename
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise Refused(f"its member {name[:80]!r} would lie outside of the archive")
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise Refused(f"its member {name[:80]!r} is compressed or encrypted; torch.save does not")


def _is_dense(tensor: StoredTensor) -> bool:
    """Whether each element is stored once, without gaps, in whatever order of the axes."""
    step = 1
    for stride, edge in sorted(zip(tensor.stride, tensor.shape, strict=True)):
        if edge > 1 and stride != step:
            return False
        step *= edge
    return True
