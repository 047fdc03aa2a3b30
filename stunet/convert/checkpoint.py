"""Get the weights and facts of a checkpoint that nobody vouches for.

The file is read by another process, `reading_process`, which can neither open, write nor start
anything. What comes back is JSON and the bytes of tensors; nothing is unpickled here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

import stunet
from stunet.convert.reading_process import DAMAGED, HEADER
from stunet.errors import CheckpointError

HEADER_BYTES = 2**28
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# -I: no environment, no user folder; -S: no site-packages, hence nothing but the standard library.
_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from stunet.convert.reading_process import main; main()"
)


@dataclass(frozen=True)
class Checkpoint:
    """What is used of a checkpoint file.

    Attributes:
        path: The file.
        weights: Tensors by the names of the network's own modules, on the CPU.
        facts: Whatever of `reading_process.FACTS` it states, as JSON has it.
    """

    path: Path
    weights: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    @property
    def init(self) -> Mapping[str, Any]:
        """nnU-Net v2: how its trainer was started; empty where the file does not say."""
        init = self.facts.get("init_args")
        return init if isinstance(init, Mapping) else {}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a `.model` of nnU-Net v1 or a `.pth` of nnU-Net v2.

    Raises:
        CheckpointError: The file is absent, or anything but a checkpoint; nothing happened then.
    """
    with _Reader(path, "weights") as reader:
        header = reader.header()
        blobs = [reader.read(size) for size in header["blobs"]]
        reader.finish()
    weights: dict[str, Tensor] = {}
    for name, blob, dtype, shape, stride in header["tensors"]:
        if dtype not in DTYPES:
            continue  # counters; a network that needs one is refused for lacking it
        weights[_without_prefixes(name)] = _tensor(blobs[blob], DTYPES[dtype], shape, stride)
    return Checkpoint(path, weights, header["facts"])


def read_record(path: Path) -> Mapping[str, Any]:
    """Read a plain pickle of numbers, text and containers, such as `.model.pkl`, as JSON has it.

    Raises:
        CheckpointError: As `read_checkpoint`.
    """
    with _Reader(path, "record") as reader:
        record = reader.header()["record"]
    if not isinstance(record, Mapping):
        raise CheckpointError(f"convert {path}: holds no dictionary; fetch it again")
    return record


class _Reader:
    """The other process, reading one file."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        library = Path(stunet.__file__).parents[1]
        command = [sys.executable, "-I", "-S", "-c", _START, str(library), kind]
        try:
            with path.open("rb") as file:
                self._process = subprocess.Popen(
                    command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}
                )
        except OSError as error:
            raise CheckpointError(f"convert {path}: {error.strerror}") from None

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._out.close()
        self._process.wait()

    def header(self) -> dict[str, Any]:
        (size,) = HEADER.unpack(self.read(HEADER.size))
        if size > HEADER_BYTES:
            raise CheckpointError(f"convert {self._path}: describes itself in {size} bytes")
        header: dict[str, Any] = json.loads(self.read(size))
        if "refused" in header:
            raise CheckpointError(f"convert {self._path}: {header['refused']}")
        return header

    def read(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._out.readinto(view)  # type: ignore[attr-defined]
            if not got:
                self._tell_of_death()
            view = view[got:]
        return data

    @property
    def _out(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def finish(self) -> None:
        """Raise unless the process ended well and has nothing more to say."""
        if self._out.read(1):
            self._process.kill()
        if self._process.wait() != 0:
            self._tell_of_death()

    def _tell_of_death(self) -> None:
        code = self._process.wait()
        how = "does not match its checksums" if code == DAMAGED else f"stopped its reader ({code})"
        raise CheckpointError(
            f"convert {self._path}: {how}, as a damaged or crafted file does; fetch it again from "
            "its source"
        )


def _tensor(data: bytearray, dtype: torch.dtype, shape: list[int], stride: list[int]) -> Tensor:
    """A float32 tensor of bytes in storage order; the axes may be stored in any order."""
    if prod(shape) * dtype.itemsize != len(data):
        raise CheckpointError(f"a tensor of shape {shape} has {len(data)} bytes")
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.as_strided(shape, stride).float().contiguous()


def _without_prefixes(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name
