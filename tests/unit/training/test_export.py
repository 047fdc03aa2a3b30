"""Which checkpoint an export takes, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stunet.engine import checkpoint_files
from stunet.errors import CheckpointError
from stunet.training.export import _checkpoint


def save(root: Path, step: int) -> None:
    tensors = {
        name: {"w": torch.ones(2)}
        for name in (checkpoint_files.WEIGHTS, checkpoint_files.OPTIMIZER)
    }
    checkpoint_files.write(root, step, tensors, {"step": step}, keep=9)


def test_the_newest_or_the_one_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    save(root, 3)
    save(root, 6)
    assert _checkpoint(root, None).name == "step_000006"
    assert _checkpoint(root, 3).name == "step_000003"


def test_a_missing_step_lists_those_that_are_there(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    save(root, 3)
    with pytest.raises(CheckpointError, match="no checkpoint of step 4; there are: step_000003"):
        _checkpoint(root, 4)


def test_a_run_without_checkpoints_is_told_to_train(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint yet; train it first"):
        _checkpoint(tmp_path / "checkpoints", None)
