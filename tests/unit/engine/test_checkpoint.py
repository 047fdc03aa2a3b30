from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from stunet.engine import checkpoint
from stunet.engine.checkpoint import CheckpointWriter
from stunet.engine.checkpoint_files import AVERAGE, COMPLETE, OPTIMIZER, WEIGHTS, load_weights
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.state import TrainState
from stunet.engine.step import LossFunction, train_step
from stunet.errors import CheckpointError
from stunet.types import Batch

Make = Callable[..., TrainEngine]
FRESH = TrainState(seed=5, config_hash="abc")


@pytest.fixture
def saved(
    tmp_path: Path,
    make_engine: Make,
    make_stream: Callable[..., Iterator[Batch]],
    loss_function: LossFunction,
) -> Path:
    """Checkpoints after steps 1 and 2."""
    engine, state = make_engine(), FRESH
    with CheckpointWriter(tmp_path, keep=3) as writer:
        for batch in islice(make_stream(), 2):
            train_step(engine, [batch], loss_function)
            state = state.after_good_step(2, loss=0.5, window=9)
            writer.save(engine, state)
        assert writer.wait() == str(tmp_path / "step_000002")
    return tmp_path


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path: Path, make_engine: Make) -> None:
    engine = make_engine(model=nn.Conv3d(1, 400_000, 3))  # 44 MB, and as much momentum
    before = engine.gather_weights()
    with CheckpointWriter(tmp_path, keep=3) as writer:
        writer.save(engine, replace(FRESH, step=1))
        assert not (tmp_path / "step_000001" / COMPLETE).exists()
        assert not writer.failed
        engine.load_weights(lambda name: torch.ones(before[name].shape))  # as steps would
        writer.wait()
    found = load_weights(tmp_path / "step_000001")
    assert all(torch.equal(found[name], value) for name, value in before.items())


def test_the_average_is_saved_and_comes_back(
    tmp_path: Path,
    make_engine: Make,
    make_batch: Callable[[int], Batch],
    loss_function: LossFunction,
) -> None:
    engine = make_engine(ema_decay=0.5)
    train_step(engine, [make_batch(0)], loss_function)
    average = engine.gather_average()
    with CheckpointWriter(tmp_path, keep=3) as writer:
        writer.save(engine, FRESH.after_good_step(2, loss=0.5, window=9))
        writer.wait()
    again = make_engine(seed=9, ema_decay=0.5)
    checkpoint.restore(again, tmp_path, FRESH)
    for found in (again.gather_average(), load_weights(tmp_path / "step_000001", AVERAGE)):
        assert all(torch.equal(found[name], value) for name, value in average.items())
    assert not torch.equal(average["head.weight"], again.gather_weights()["head.weight"])


def test_an_average_that_was_never_kept_is_missed(saved: Path, make_engine: Make) -> None:
    with pytest.raises(CheckpointError, match=r"step_000002: has no ema\.safetensors"):
        checkpoint.restore(make_engine(ema_decay=0.5), saved, FRESH)
    with pytest.raises(CheckpointError, match=r"trained without optim\.ema_decay"):
        load_weights(saved / "step_000002", AVERAGE)


def test_weights_can_be_read_without_an_engine(
    saved: Path, make_net: Callable[[int], nn.Module]
) -> None:
    net = make_net(1)
    before = net.get_parameter("head.weight").clone()
    net.load_state_dict(load_weights(saved / "step_000002"))
    assert not torch.equal(net.get_parameter("head.weight"), before)


def test_without_checkpoints_a_run_starts_fresh(tmp_path: Path, make_engine: Make) -> None:
    assert checkpoint.restore(make_engine(), tmp_path / "checkpoints", FRESH) == FRESH


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[:-1] + b"\x7f"])
@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(
    saved: Path,
    make_engine: Make,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: Callable[[bytes], bytes],
) -> None:
    path = saved / "step_000002" / name
    path.write_bytes(damage(path.read_bytes()))
    engine = make_engine(seed=9)
    state = checkpoint.restore(engine, saved, FRESH)
    assert (state.step, engine.steps_done, state.samples_seen) == (1, 1, 2)
    expected = load_weights(saved / "step_000001")
    found = engine.gather_weights()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    [message] = [record.message for record in caplog.records]
    assert message.startswith("passing over a damaged checkpoint")
    assert "step_000002" in message and name in message


def test_what_changed_since_is_said(
    saved: Path, make_engine: Make, caplog: pytest.LogCaptureFixture
) -> None:
    now = replace(FRESH, config_hash="def")
    with caplog.at_level(logging.INFO):
        state = checkpoint.restore(make_engine(), saved, now)
    assert state.config_hash == "def"
    messages = [record.message for record in caplog.records]
    assert messages[0] == "configuration changed from abc to def: not bit-identical"
    assert messages[1].endswith("step_000002")


def test_another_seed_is_refused(saved: Path, make_engine: Make) -> None:
    with pytest.raises(CheckpointError, match="trained with seed 5, not 6; set seed=5"):
        checkpoint.restore(make_engine(), saved, replace(FRESH, seed=6))


def test_another_optimiser_is_refused(saved: Path, make_engine: Make) -> None:
    with pytest.raises(CheckpointError, match=r"exp_avg/enter\.bias has shape none"):
        checkpoint.restore(make_engine(name="adamw"), saved, FRESH)


def test_another_model_is_refused(saved: Path, make_engine: Make) -> None:
    with pytest.raises(CheckpointError, match=r"step_000002: bias has shape none, .*\(2,\);"):
        checkpoint.restore(make_engine(model=nn.Conv3d(1, 2, 1)), saved, FRESH)
