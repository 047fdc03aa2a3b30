from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stunet.engine import checkpoint_files as files
from stunet.errors import CheckpointError

REPO = Path(__file__).resolve().parents[3]
CONTENT = (files.WEIGHTS, files.OPTIMIZER, files.STATE, files.MANIFEST)


def write(root: Path, step: int, keep: int = 3) -> Path:
    values = torch.full((5, 3), float(step))
    tensors = {
        files.WEIGHTS: {"a.weight": values},
        files.OPTIMIZER: {"momentum_buffer/a.weight": -values},
    }
    return files.write(root, step, tensors, {"step": step}, keep)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_what_was_written_is_found_and_read(tmp_path: Path) -> None:
    path = write(tmp_path, 100)
    assert path == tmp_path / "step_000100"
    assert names(path) == sorted([*CONTENT, files.COMPLETE])
    assert (tmp_path / files.LATEST).read_text() == "step_000100\n"
    assert files.newest_whole(tmp_path) == (path, [])
    assert files.read_state(path) == {"step": 100}
    assert torch.equal(files.load_weights(path)["a.weight"], torch.full((5, 3), 100.0))
    assert files.tensor_shapes(path / files.OPTIMIZER) == {"momentum_buffer/a.weight": (5, 3)}
    moment = files.read_tensor(path / files.OPTIMIZER, "momentum_buffer/a.weight")
    assert torch.equal(moment, torch.full((5, 3), -100.0))


def test_the_newest_are_kept_in_the_order_of_steps(tmp_path: Path) -> None:
    for step in (2, 10, 999_999, 1_000_000):
        write(tmp_path, step, keep=2)
    assert names(tmp_path) == [files.LATEST, "step_1000000", "step_999999"]
    assert files.complete_checkpoints(tmp_path)[0].name == "step_1000000"


def test_a_future_that_was_rolled_back_goes(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        write(tmp_path, step)
    flip_a_bit(tmp_path / "step_000009" / files.WEIGHTS)
    write(tmp_path, 8)  # continued from 6
    assert names(tmp_path) == [files.LATEST, "step_000003", "step_000006", "step_000008"]


def test_a_step_reached_again_replaces_what_was_damaged(tmp_path: Path) -> None:
    flip_a_bit(write(tmp_path, 3) / files.WEIGHTS)
    files.verify(write(tmp_path, 3))


def test_no_checkpoints_yet(tmp_path: Path) -> None:
    assert files.newest_whole(tmp_path / "checkpoints") == (None, [])


@pytest.mark.parametrize("name", CONTENT)
def test_a_flipped_bit_is_found_and_the_one_before_taken(tmp_path: Path, name: str) -> None:
    before, damaged = write(tmp_path, 3), write(tmp_path, 6)
    flip_a_bit(damaged / name)
    found, problems = files.newest_whole(tmp_path)
    assert found == before
    assert len(problems) == 1
    assert "step_000006" in problems[0] and "\n" not in problems[0]


@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize("kept_bytes", [0, 11])
def test_a_truncated_file_is_found(tmp_path: Path, name: str, kept_bytes: int) -> None:
    path = write(tmp_path, 6)
    (path / name).write_bytes((path / name).read_bytes()[:kept_bytes])
    with pytest.raises(CheckpointError, match=f"step_000006: .*{re.escape(name)}|{files.MANIFEST}"):
        files.verify(path)


@pytest.mark.parametrize("name", CONTENT)
def test_a_missing_file_is_found(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, 6)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        files.load_weights(path)


def test_a_folder_that_was_never_sealed_is_no_checkpoint(tmp_path: Path) -> None:
    before, unsealed = write(tmp_path, 3), write(tmp_path, 6)
    (unsealed / files.COMPLETE).unlink()
    assert files.newest_whole(tmp_path) == (before, [])
    with pytest.raises(CheckpointError, match="no COMPLETE"):
        files.load_weights(unsealed)


def test_starting_anew_in_silence_is_refused(tmp_path: Path) -> None:
    for step in (3, 6):
        flip_a_bit(write(tmp_path, step) / files.STATE)
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        files.newest_whole(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    manifest = json.loads((path / files.MANIFEST).read_text()) | {"format": 99}
    (path / files.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="format 99"):
        files.verify(path)


@pytest.mark.parametrize("room", [0, 250_000, 484_000])  # for nothing, the weights, all but state
def test_a_full_disk_leaves_the_checkpoint_before_and_no_rubble(
    tmp_path: Path, mount_disk: Callable[..., Path], room: int
) -> None:
    small_disk = mount_disk(tmp_path / "disk", "size=1m")
    before = write(small_disk, 3)
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
    free = shutil.disk_usage(small_disk).free
    tensors = {name: {"a": torch.ones(60_000)} for name in (files.WEIGHTS, files.OPTIMIZER)}
    with pytest.raises(CheckpointError, match=r"step_000006: cannot be written .*free space") as e:
        files.write(small_disk, 6, tensors, {"step": 6}, keep=3)
    assert "\n" not in str(e.value)
    assert files.newest_whole(small_disk) == (before, [])
    assert shutil.disk_usage(small_disk).free == free
    (small_disk / "filler").unlink()
    assert files.newest_whole(small_disk)[0] == before
    files.verify(files.write(small_disk, 6, tensors, {"step": 6}, keep=3))


def test_a_file_system_that_refuses_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path / "file", 1)


SAVE_FOR_EVER = """
import sys, torch
from itertools import count
from pathlib import Path
from stunet.engine import checkpoint_files as files
root = Path(sys.argv[1])
for step in count(1):
    values = torch.full((200_000,), float(step))
    tensors = {files.WEIGHTS: {"a": values}, files.OPTIMIZER: {"b": values}}
    files.write(root, step, tensors, {"step": step}, keep=1)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.013, 0.031])
def test_a_kill_at_any_moment_loses_nothing_that_was_sealed(tmp_path: Path, delay_s: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
    )
    latest = tmp_path / files.LATEST
    deadline = time.monotonic() + 60
    while not (latest.exists() and latest.read_text() >= "step_000003"):
        assert writer.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(delay_s)
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=10)
    sealed = int(latest.read_text().removeprefix("step_"))
    found, problems = files.newest_whole(tmp_path)
    assert found is not None and not problems
    step = files.read_state(found)["step"]
    assert step >= sealed
    assert torch.equal(files.load_weights(found)["a"], torch.full((200_000,), float(step)))
    files.verify(write(tmp_path, step + 1))  # whatever the kill left behind is in nobody's way
