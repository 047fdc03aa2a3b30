"""Read a pickle as data: every class and function it may name is an inert stand-in of ours.

What may be named is what a state dict, numbers of numpy and containers take, about what
`torch.load(weights_only=True)` reads; anything else is refused by its name before it is looked up.
Neither torch nor numpy is imported, and a tensor is a description, not memory. Only the standard
library, since this runs in the process of `reading_process`.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

PICKLE_BYTES = 32 * 2**20  # descriptions of 306 tensors and logs of 4000 epochs take 1 MB
NODES = 10**6  # of what is passed on; a list that holds itself ten times over ten times over ...
DEPTH = 32

# dtype names as safetensors has them, by storage class
STORAGES = {
    "FloatStorage": "F32",
    "DoubleStorage": "F64",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
# numpy's type codes, as `struct` calls them
_NUMBERS = {"f8": "d", "f4": "f", "f2": "e", "b1": "?"}
_NUMBERS |= {"i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u2": "H", "u1": "B"}


class Refused(Exception):  # noqa: N818 - what the user is told, not a failure of the program
    """The file is not what it should be; the message says why, in one line."""


@dataclass(frozen=True)
class Storage:
    """One storage of an archive, by the name of its member."""

    member: str
    dtype: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """Where the numbers of a tensor lie; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def unpickle(data: bytes) -> Any:
    """Return what a pickle holds.

    Raises:
        Refused: It names something that is not allowed, or is no pickle.
    """
    if len(data) > PICKLE_BYTES:
        raise Refused(f"its pickle takes {len(data)} bytes, above {PICKLE_BYTES}")
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except (Refused, MemoryError):
        raise
    except Exception as error:  # a crafted pickle can raise about anything
        raise Refused(f"its pickle is malformed ({type(error).__name__})") from None


def plain(value: Any) -> Any:
    """Return a value as JSON has them; tensors become None, keys text.

    Raises:
        Refused: It is nested too deeply or too large.
    """
    left = [NODES]

    def walk(value: Any, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Refused(f"it describes more than {NODES} values")
        if depth > DEPTH:
            raise Refused(f"it is nested more than {DEPTH} deep")
        if isinstance(value, Mapping):
            return {_key(key): walk(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [walk(item, depth + 1) for item in value]
        if isinstance(value, _Array):
            return walk(value.numbers(), depth + 1)
        if isinstance(value, int) and abs(value) >= 2**63:
            raise Refused("it holds an integer above 64 bits")
        return value if isinstance(value, str | int | float | bool | None) else None

    return walk(value, 0)


def _key(key: Any) -> str:
    if not isinstance(key, str | int):
        raise Refused(f"it has a key of type {type(key).__name__}")
    return str(key)


# Stand-ins ---------------------------------------------------------------------------------------


class _Allowed:
    """What an allowed name becomes. Opaque, so that a pickle can call it but not change it."""

    __slots__ = ("_call", "_name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self._name, self._call = name, call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise Refused(f"it changes {self._name}")


class _Record(dict[Any, Any]):
    """For OrderedDict, whose further attributes (a state dict's metadata) are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype:
    """A numpy dtype of plain little-endian numbers."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in _NUMBERS:
            raise Refused(f"it holds numpy values of type {str(code)[:20]!r}")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        _, order, subarray = state[:3]
        if order not in ("<", "|", "=") or subarray is not None:
            raise Refused("it holds numpy values that are not plain little-endian numbers")

    def numbers(self, data: bytes) -> list[Any]:
        size = struct.calcsize(_NUMBERS[self.code])
        return list(struct.unpack(f"<{len(data) // size}{_NUMBERS[self.code]}", data))


class _Array:
    """A numpy array; empty until its state comes."""

    __slots__ = ("_data", "_dtype", "_shape")

    def __init__(self, *_: Any) -> None:
        self._data, self._shape = b"", (0,)

    def __setstate__(self, state: Any) -> None:
        _, self._shape, self._dtype, by_columns, self._data = state
        if (by_columns and len(self._shape) > 1) or not isinstance(self._data, bytes):
            raise Refused("it holds a numpy array in an unusual layout")

    def numbers(self) -> list[Any]:
        flat = self._dtype.numbers(self._data) if self._data else []
        if len(flat) != prod(self._shape):
            raise Refused("it holds a numpy array of another size than it says")
        for edge in reversed(self._shape[1:]):
            flat = [flat[i : i + edge] for i in range(0, len(flat), edge)]
        return flat


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return dtype.numbers(data)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise Refused(f"it encodes text as {str(encoding)[:20]!r}")
    return text.encode("latin1")


def _tensor(storage: Storage, offset: int, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    numbers = (offset, *shape, *stride)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(shape) != len(stride):
        raise Refused("it describes a tensor with an impossible shape")
    if not isinstance(storage, Storage):
        raise Refused("it describes a tensor without a storage")
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))


def _no_call(*_: Any) -> Any:
    raise Refused("it calls a type that it may only name")


def _allowed() -> Iterator[tuple[str, Callable[..., Any]]]:
    yield "collections.OrderedDict", _Record
    yield "_codecs.encode", _encode
    yield "torch._utils._rebuild_tensor_v2", _tensor
    yield "torch._utils._rebuild_parameter", lambda tensor, *_: tensor
    yield "torch.Size", tuple
    yield "torch.device", lambda *_: None
    for name in STORAGES:
        yield f"torch.{name}", _no_call
    yield "numpy.dtype", _Dtype
    yield "numpy.ndarray", _no_call
    for package in ("numpy.core", "numpy._core"):
        yield f"{package}.multiarray.scalar", _scalar
        yield f"{package}.multiarray._reconstruct", _Array


ALLOWED = {name: _Allowed(name, call) for name, call in _allowed()}
_STORAGE_DTYPES = {id(ALLOWED[f"torch.{name}"]): dtype for name, dtype in STORAGES.items()}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in ALLOWED:
            raise Refused(f"it names {full[:80]!r}, which no state dict needs")
        return ALLOWED[full]

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage_type, member, _, count = pid
        dtype = _STORAGE_DTYPES.get(id(storage_type))
        if kind != "storage" or dtype is None or type(count) is not int or count < 0:
            raise Refused("it refers to something outside that is no tensor storage")
        return Storage(str(member), dtype, count)
