"""The process that reads an untrusted file: standard input in, a description and bytes out.

It locks itself down (`lockdown`) before it looks at the file, has no more than that file open and
imports only the standard library. `checkpoint` starts it and reads what it says: 8 bytes of length,
JSON, then the bytes of the tensors that the JSON lists.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterable
from math import prod
from typing import Any, BinaryIO

from stunet.convert.archive import DTYPE_BYTES, Archive
from stunet.convert.lockdown import lock_down
from stunet.convert.pickles import PICKLE_BYTES, Refused, StoredTensor, plain, unpickle

WEIGHT_KEYS = ("state_dict", "network_weights")  # nnU-Net v1, nnU-Net v2
FACTS = ("epoch", "current_epoch", "init_args", "trainer_name", "inference_allowed_mirroring_axes")
HEADER = struct.Struct("<Q")
DAMAGED = 3  # exit code: the bytes of a tensor do not match their checksum
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # magic number of files before 1.6


def main() -> None:
    """Read standard input as `sys.argv[-1]` says: `weights` or `record`."""
    "".encode("cp437")  # what zipfile decodes names by: imported now, since later nothing can be
    lock_down()
    file, out = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    header: dict[str, Any]
    pieces: Iterable[bytes] = ()
    try:
        if sys.argv[-1] == "weights":
            header, pieces = _describe(file)
        else:
            header = {"record": plain(unpickle(_plain_pickle(file)))}
    except Refused as refused:
        header = {"refused": str(refused)}
    except MemoryError:
        header = {"refused": "reading it takes more memory than a checkpoint should"}
    except RecursionError:
        header = {"refused": "it is nested too deeply"}
    data = json.dumps(header).encode()
    out.write(HEADER.pack(len(data)) + data)
    try:
        for piece in pieces:
            out.write(piece)
    except Refused:
        os._exit(DAMAGED)  # too late for words: what follows the header is taken for numbers
    out.flush()


def _describe(file: BinaryIO) -> tuple[dict[str, Any], Iterable[bytes]]:
    """What is said of a checkpoint, and the bytes of its tensors."""
    head = _head(file)
    if not head.startswith(b"PK"):
        raise Refused(_not_an_archive(head))
    archive = Archive(file)
    checkpoint = unpickle(archive.pickle())
    if not isinstance(checkpoint, dict):
        raise Refused(f"it holds a {type(checkpoint).__name__}, not the dictionary of a checkpoint")
    weights = next((checkpoint[key] for key in WEIGHT_KEYS if key in checkpoint), None)
    if not isinstance(weights, dict) or not weights:
        keys = ", ".join(str(key)[:40] for key in list(checkpoint)[:10])
        raise Refused(
            f"it has no weights under {' or '.join(WEIGHT_KEYS)}; its keys are: {keys or 'none'}"
        )
    numbers: dict[tuple[Any, ...], int] = {}  # a tensor under several names is sent once
    blobs: list[StoredTensor] = []
    rows = []
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, StoredTensor):
            raise Refused(f"its weight {str(name)[:80]!r} is not a tensor")
        archive.check(name, tensor)
        place = (tensor.storage, tensor.offset, prod(tensor.shape))
        if numbers.setdefault(place, len(blobs)) == len(blobs):
            blobs.append(tensor)
        rows.append([name, numbers[place], tensor.storage.dtype, tensor.shape, tensor.stride])
    facts = {key: plain(checkpoint[key]) for key in FACTS if key in checkpoint}
    sizes = [prod(tensor.shape) * DTYPE_BYTES[tensor.storage.dtype] for tensor in blobs]
    pieces = (piece for tensor in blobs for piece in archive.pieces(tensor))
    return {"facts": facts, "tensors": rows, "blobs": sizes}, pieces


def _plain_pickle(file: BinaryIO) -> bytes:
    head = _head(file)
    if not head.startswith(b"\x80"):
        raise Refused(_not_an_archive(head))
    return file.read(PICKLE_BYTES + 1)


def _head(file: BinaryIO) -> bytes:
    head = file.read(256)
    file.seek(0)
    return head


def _not_an_archive(head: bytes) -> str:
    """What a file is that should have been a checkpoint."""
    text = head.lstrip().lower()
    if not head:
        return "it is empty; fetch it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is an HTML page, as a failed download leaves it; fetch it again"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run 'git lfs pull'"
    if head.startswith(OLD_TORCH):
        return "it was written by PyTorch before 1.6; load and save it with a newer one"
    return "it is neither a file of torch.save nor a pickle; fetch it again"
