from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stunet.io.atomic import (
    atomic_file,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    leftovers,
    publish_folder,
    temporary_sibling,
)


def test_a_file_is_replaced_and_no_other_name_stays(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    atomic_write_bytes(file, b"old")
    atomic_write_bytes(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half way"), atomic_file(file) as out:
        out.write(b"ne")
        raise RuntimeError("half way")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_kill_while_writing_keeps_the_old_file_and_its_rest_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from stunet.io.atomic import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as out:\n"
        "    out.write(b'ne'); out.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    repo = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", script, str(file)], cwd=repo, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == b"old"
    (rest,) = leftovers(tmp_path)
    assert rest.read_bytes() == b"ne"


def test_leftovers_are_told_from_other_hidden_files(tmp_path: Path) -> None:
    for name in (".bashrc", ".a.tmp", "a.0123abcd.tmp", ".a.0123abcg.tmp"):
        (tmp_path / name).touch()
    folder = temporary_sibling(tmp_path / "case")
    folder.mkdir()
    assert leftovers(tmp_path) == [folder]


def test_json_keeps_insertion_order_and_ends_in_a_newline(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    atomic_write_json(file, {"b": 1, "a": "Zürich", "c": [1.5]})
    assert file.read_bytes().decode() == '{\n "b": 1,\n "a": "Zürich",\n "c": [\n  1.5\n ]\n}\n'


def test_json_refuses_nan_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        atomic_write_json(tmp_path / "a.json", {"mean": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_text_is_utf8_without_newline_translation(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a.txt", "µ\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc2\xb5\n"


def test_a_folder_is_published_whole(tmp_path: Path) -> None:
    temporary = temporary_sibling(tmp_path / "final")
    (temporary / "deep").mkdir(parents=True)
    (temporary / "deep" / "a").write_bytes(b"1")
    publish_folder(temporary, tmp_path / "final")
    assert (tmp_path / "final" / "deep" / "a").read_bytes() == b"1"
    assert not temporary.exists()


def test_publishing_never_replaces_a_folder_not_even_an_empty_one(tmp_path: Path) -> None:
    temporary, final = tmp_path / "new", tmp_path / "final"
    temporary.mkdir()
    final.mkdir()
    with pytest.raises(FileExistsError):
        publish_folder(temporary, final)
    assert temporary.is_dir()
