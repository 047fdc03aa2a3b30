"""Files that want to do harm, and files that are not what their name says, are refused by name.

Each test looks for an effect too: what the file would have made, and the memory of the process that
read it.
"""

from __future__ import annotations

import builtins
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stunet.convert.checkpoint import read_checkpoint, read_record
from stunet.convert.lockdown import MEMORY_BYTES
from stunet.errors import CheckpointError

BYTES_OF_MAXRSS = 1024  # Linux counts in KiB


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def archive(path: Path, pickled: bytes, **members: bytes) -> Path:
    """A file as torch.save lays it out, around any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, data in members.items():
            file.writestr(f"archive/data/{name}", data)
    return path


def torch_tensor(
    count: int, shape: tuple[int, ...], offset: int = 0, stride: tuple[int, ...] = (1,)
) -> bytes:
    """The pickle of {"state_dict": {"w": tensor}} as torch.save writes it, with free numbers."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return obj.pid if isinstance(obj, Stored) else None

    class Stored:
        pid = ("storage", torch.FloatStorage, "0", "cpu", count)

    rebuild = Call(torch._utils._rebuild_tensor_v2, Stored(), offset, shape, stride, False, {})
    out = io.BytesIO()
    Pickler(out, 2).dump({"state_dict": {"w": rebuild}})
    return out.getvalue()


@pytest.fixture
def nothing_happens(tmp_path: Path) -> Iterator[Path]:
    """A path that a malicious file tries to make; it must not, nor leave a process behind."""
    target = tmp_path / "made"
    yield target
    assert not target.exists()


def peak_bytes(whose: int) -> int:
    """Of this process, or of the largest that it has waited for so far."""
    return resource.getrusage(whose).ru_maxrss * BYTES_OF_MAXRSS


def refused(path: Path, match: str) -> None:
    before = {entry.name for entry in path.parent.iterdir()}
    highest = peak_bytes(resource.RUSAGE_CHILDREN)
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert {entry.name for entry in path.parent.iterdir()} == before
    # A process counts what it was forked from, too.
    allowed = max(highest, peak_bytes(resource.RUSAGE_SELF), MEMORY_BYTES)
    assert peak_bytes(resource.RUSAGE_CHILDREN) <= allowed


MALICIOUS = {
    "os.system": lambda target: Call(os.system, f"touch {target}"),
    "builtins.eval": lambda target: Call(builtins.eval, f"open({str(target)!r}, 'w')"),
    "builtins.exec": lambda target: Call(builtins.exec, f"open({str(target)!r}, 'w')"),
    "subprocess.Popen": lambda target: Call(subprocess.Popen, ["touch", str(target)]),
    "open": lambda target: Call(io.open, str(target), "w"),
    "getattr": lambda target: Call(getattr, Call(__import__, "os"), "system"),
    "numpy loader": lambda target: b"cnumpy\nload\n(V%s\ntR." % str(target).encode(),
    "numpy object loader": lambda target: (
        b"cnumpy.testing._private.utils\nrunstring\n(V%s\ntR."
        % f"open({str(target)!r}, 'w')".encode()
    ),
    "torch loader": lambda target: Call(torch.load, str(target)),
    "torch hub": lambda target: b"ctorch.hub\nload\n(V%s\ntR." % str(target).encode(),
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_pickle_that_calls(tmp_path: Path, nothing_happens: Path, kind: str) -> None:
    content = MALICIOUS[kind](nothing_happens)
    pickled = content if isinstance(content, bytes) else pickle.dumps({"state_dict": content}, 2)
    named = r"it names '[\w.]+', which no state dict needs$"
    refused(archive(tmp_path / "x.pth", pickled), named)
    (tmp_path / "x.model.pkl").write_bytes(
        pickle.dumps(content) if content != pickled else b"\x80\x02" + pickled
    )
    with pytest.raises(CheckpointError, match=named):
        read_record(tmp_path / "x.model.pkl")


def test_allowed_names_can_be_called_but_not_changed(tmp_path: Path) -> None:
    build = b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb."
    refused(archive(tmp_path / "a.pth", build), "it changes collections.OrderedDict$")
    nested = b"\x80\x04\x8c\x0bcollections\x8c\x18OrderedDict.__init__.__x\x93."
    refused(archive(tmp_path / "b.pth", nested), "malformed|it names")
    extension = b"\x80\x02\x82\x01."  # a class by number, from the registry of copyreg
    refused(archive(tmp_path / "c.pth", extension), "malformed")


def test_numpy_objects_are_not_made(tmp_path: Path) -> None:
    import numpy as np

    data = pickle.dumps({"state_dict": {}, "epoch": np.array([{}, {}], dtype=object)}, 2)
    refused(archive(tmp_path / "x.pth", data), "numpy values of type 'O8'")


DEPTHS = {
    "lists": b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
    "tuples": b"\x80\x02" + b"N" + b"\x85" * 10**6 + b".",
    "hashed tuples": b"\x80\x02}N" + b"\x85" * 10**6 + b"Ns.",
    "in a fact": b"\x80\x02}(U\x0astate_dict}U\x05epoch"
    + b"]" * 10**5
    + b"a" * (10**5 - 1)
    + b"u.",
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_deep_nesting(tmp_path: Path, kind: str) -> None:
    refused(
        archive(tmp_path / "x.pth", DEPTHS[kind]),
        "not the dictionary|stopped its reader|no weights|deep|malformed",
    )


def test_a_list_that_holds_itself_many_times_over(tmp_path: Path) -> None:
    laughs: list[Any] = ["ha"]
    for _ in range(12):
        laughs = [laughs] * 10
    (tmp_path / "x.model.pkl").write_bytes(pickle.dumps({"plans": laughs}))
    with pytest.raises(CheckpointError, match="describes more than 1000000 values"):
        read_record(tmp_path / "x.model.pkl")


HUGE = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "memo": b"\x80\x02Nr" + struct.pack("<I", 2**31) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "million sets": b"\x80\x04(" + b"\x8f" * (3 * 10**6) + b"l.",  # 216 bytes each
}


@pytest.mark.parametrize("kind", HUGE)
def test_huge_allocations(tmp_path: Path, kind: str) -> None:
    refused(
        archive(tmp_path / "x.pth", HUGE[kind]),
        "memory|malformed|not the dictionary",
    )


def test_a_pickle_above_the_limit(tmp_path: Path) -> None:
    refused(
        archive(tmp_path / "x.pth", b"N" * (33 * 2**20)), r"its data.pkl takes \d+ bytes, above"
    )
    (tmp_path / "x.model.pkl").write_bytes(b"\x80\x02" + b"N" * (33 * 2**20))
    with pytest.raises(CheckpointError, match="its pickle takes"):
        read_record(tmp_path / "x.model.pkl")


@pytest.mark.parametrize(
    ("count", "shape", "offset", "stride", "match"),
    [
        (2**40, (2**40,), 0, (1,), "missing or cut short"),
        (4, (8,), 0, (1,), "does not fill a range"),
        (4, (4,), 1, (1,), "does not fill a range"),
        (4, (2**20, 2**20), 0, (0, 0), "does not fill a range"),
        (4, (-1,), 0, (1,), "impossible shape"),
        (4, (2, 2), 0, (1,), "impossible shape"),
    ],
)
def test_tensors_that_claim_too_much(
    tmp_path: Path, count: int, shape: Any, offset: int, stride: Any, match: str
) -> None:
    path = archive(
        tmp_path / "x.pth", torch_tensor(count, shape, offset, stride), **{"0": bytes(16)}
    )
    refused(path, match)


def test_the_tensor_of_these_tests_reads_where_it_is_honest(tmp_path: Path) -> None:
    numbers = struct.pack("<4f", 1, 2, 3, 4)
    path = archive(tmp_path / "x.pth", torch_tensor(4, (2, 2), 0, (1, 2)), **{"0": numbers})
    assert read_checkpoint(path).weights["w"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("name", ["../made", "/made", "archive/../../made", "archive\\..\\made"])
def test_zip_slip(tmp_path: Path, nothing_happens: Path, name: str) -> None:
    path = archive(tmp_path / "x.pth", torch_tensor(4, (4,)), **{"0": bytes(16)})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(zipfile.ZipInfo(name), b"made")
    refused(path, "would lie outside of the archive")


def test_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**8))
    refused(bomb, "is compressed or encrypted")
    script = archive(tmp_path / "script.pth", b"N.")
    with zipfile.ZipFile(script, "a") as file:
        file.writestr("archive/code/__torch__.py", b"")
    refused(script, "is a TorchScript program")
    other = tmp_path / "other.pth"
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("readme.txt", b"hello")
    refused(other, "without the data.pkl")
    cut = tmp_path / "cut.pth"
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, cut)
    cut.write_bytes(cut.read_bytes()[:-500])
    refused(cut, "is a damaged zip archive")
    flipped = tmp_path / "flipped.pth"
    torch.save({"state_dict": {"w": torch.full((1000,), 7.0)}}, flipped)
    data = flipped.read_bytes()
    flipped.write_bytes(data.replace(struct.pack("<2f", 7, 7), struct.pack("<2f", 7, 8), 1))
    refused(flipped, "does not match its checksums")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"<!DOCTYPE html><html><body>Quota exceeded</body></html>", "is an HTML page.*fetch it"),
        (b"\n\n<html>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n", "neither a file of torch.save nor a pickle"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(content)
    refused(path, match)


def test_old_files_and_other_contents(tmp_path: Path) -> None:
    old = tmp_path / "old.model"
    torch.save({"state_dict": {}}, old, _use_new_zipfile_serialization=False)
    refused(old, "written by PyTorch before 1.6")
    torch.save({"model": {}, "epoch": 3}, tmp_path / "other.pth")
    refused(
        tmp_path / "other.pth",
        "no weights under state_dict or network_weights; its keys are: model, epoch",
    )
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "a list, not the dictionary")
    torch.save(torch.nn.Conv3d(1, 1, 1), tmp_path / "module.pth")
    refused(tmp_path / "module.pth", "it names 'torch.nn.modules.conv.Conv3d'")


LOCKED = """
import errno, os, socket, subprocess, sys
sys.path.append(sys.argv[1])
from stunet.convert.lockdown import lock_down
lock_down()
attempts = dict(
    read=lambda: open("/etc/passwd"),
    make=lambda: os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY),
    folder=lambda: os.mkdir(sys.argv[2]),
    remove=lambda: os.remove(sys.argv[3]),
    rename=lambda: os.rename(sys.argv[3], sys.argv[2]),
    connect=lambda: socket.socket(),
    fork=lambda: os.fork(),
    run=lambda: subprocess.Popen(["true"]),
    replace=lambda: os.execv("/bin/true", ["true"]),
    kill=lambda: os.kill(os.getppid(), 0),
    memory=lambda: bytearray(2**31),
)
for name, attempt in attempts.items():
    try:
        attempt()
        print(name, "done", flush=True)
    except (OSError, MemoryError) as error:
        print(name, "refused", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="system calls are filtered on Linux only")
def test_what_a_locked_process_can_still_do(tmp_path: Path) -> None:
    """Had a file taken over the process that reads it, this is all it could try."""
    kept = tmp_path / "kept"
    kept.write_text("kept")
    repo = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-I", "-S", "-c", LOCKED, repo, tmp_path / "made", kept]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = run.stdout.splitlines()
    assert len(lines) == 11, run.stderr
    assert [line for line in lines if not line.endswith("refused")] == []
    assert kept.read_text() == "kept" and not (tmp_path / "made").exists()


def test_the_reading_process_imports_only_the_standard_library() -> None:
    repo = Path(__file__).resolve().parents[3]
    code = (
        "import sys; sys.path.append(sys.argv[1]); import stunet.convert.reading_process; "
        "print([n for n in sys.modules if n.partition('.')[0] in ('torch', 'numpy', 'site')])"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(repo)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"
