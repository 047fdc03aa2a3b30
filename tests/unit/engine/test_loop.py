from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import mean

import pytest
import torch

from stunet.engine import checkpoint
from stunet.engine.checkpoint_files import LATEST, load_weights, read_state
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.guard import GuardConfig
from stunet.engine.json_lines import read_rows
from stunet.engine.loop import Hooks, LoopConfig, fit
from stunet.engine.state import TrainState
from stunet.engine.step import LossFunction
from stunet.errors import CheckpointError, ConfigError, Preempted, TrainingError
from stunet.types import Batch

Make = Callable[..., TrainEngine]
Stream = Callable[..., Iterator[Batch]]
FRESH = TrainState(seed=5, config_hash="abc")


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_metrics_checkpoints_and_its_settings(
    tmp_path: Path, make_engine: Make, make_stream: Stream, loss_function: LossFunction
) -> None:
    engine, losses = make_engine(), []

    def noted(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        loss = loss_function(logits, label)
        losses.append(loss.item())
        return loss

    config = LoopConfig(log_every=2, checkpoint_every=2, keep_checkpoints=2)
    state = fit(engine, make_stream(), noted, FRESH, tmp_path, config)
    assert (state.step, state.samples_seen, state.skipped_steps) == (6, 12, 0)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [2, 4, 6]
    pairs = zip(losses[::2], losses[1::2], strict=True)
    assert [row["loss"] for row in found] == pytest.approx([mean(pair) for pair in pairs])
    assert set(found[0]) == {
        *("step", "loss", "lr", "grad_norm", "skipped_steps"),
        *("samples_per_s", "data_wait_fraction", "patch_ms", "augment_ms", "peak_memory_gb"),
    }
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == [LATEST, "step_000004", "step_000006"]
    told = json.loads((tmp_path / "deepspeed.json").read_text())
    assert told["train_micro_batch_size_per_gpu"] == 2


def test_waiting_for_data_is_measured(
    tmp_path: Path, make_engine: Make, make_stream: Stream, loss_function: LossFunction
) -> None:
    def late() -> Iterator[Batch]:
        for batch in make_stream():
            time.sleep(0.25)
            yield batch

    engine, config = make_engine(total_steps=2), LoopConfig(log_every=2)
    fit(engine, late(), loss_function, FRESH, tmp_path, config)
    [row] = rows(tmp_path)
    assert 0.5 < row["data_wait_fraction"] < 1
    assert row["samples_per_s"] < 2 / 0.25


def test_a_skipped_step_is_counted_and_not_averaged(
    tmp_path: Path,
    make_engine: Make,
    make_stream: Stream,
    loss_function: LossFunction,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = iter(range(99))

    def broken_once(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        loss = loss_function(logits, label)
        return loss * torch.nan if next(calls) == 1 else loss

    engine, config = make_engine(), LoopConfig(log_every=3)
    state = fit(engine, make_stream(), broken_once, FRESH, tmp_path, config)
    assert (state.skipped_steps, state.skipped_in_a_row) == (1, 0)
    assert [row["skipped_steps"] for row in rows(tmp_path)] == [1, 1]
    assert all(row["loss"] > 0 for row in rows(tmp_path))
    assert caplog.messages == ["step 2 skipped: the loss is not finite; samples 2 (s2), 3 (s3)"]


def test_a_loss_that_jumps_is_skipped_recorded_and_forgotten_by_nobody(
    tmp_path: Path, make_engine: Make, make_stream: Stream, loss_function: LossFunction
) -> None:
    def jumps_in_step_5(first_step: int) -> LossFunction:
        steps = iter(range(first_step + 1, 99))

        def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return loss_function(logits, label) * (1e4 if next(steps) == 5 else 1)

        return loss

    guard = GuardConfig(window=3)
    config = LoopConfig(log_every=1, checkpoint_every=4, guard=guard)
    hooks = Hooks(describe=lambda sample: {"position": sample * 10})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    state = fit(make_engine(), make_stream(), jumps_in_step_5(0), FRESH, whole, config, hooks)
    assert (state.skipped_steps, state.skipped_in_a_row) == (1, 0)
    assert state.recent_losses == tuple(
        row["loss"] for row in rows(whole) if row["step"] in (3, 4, 6)
    )
    [row] = read_rows(whole / "skipped.jsonl")
    assert row["step"] == 5 and row["reason"].startswith("the loss jumped to ")
    assert [(s["sample"], s["case"], s["draw"]) for s in row["samples"]] == [
        (8, "s8", {"position": 80}),
        (9, "s9", {"position": 90}),
    ]
    # Continued from step 4, the guard knows the losses before and skips step 5 again.
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step_000006")
    engine = make_engine(seed=1)
    state = checkpoint.restore(engine, cut / "checkpoints", FRESH)
    fit(engine, make_stream(4), jumps_in_step_5(4), state, cut, config, hooks)
    last = "checkpoints/step_000006"
    assert read_state(cut / last) == read_state(whole / last)
    assert read_rows(cut / "skipped.jsonl") == [row]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_the_next_step(
    tmp_path: Path, make_engine: Make, make_stream: Stream, loss_function: LossFunction
) -> None:
    (tmp_path / "checkpoints").touch()  # a file where the folder should be
    steps = []

    def slowly() -> Iterator[Batch]:
        for step, batch in enumerate(make_stream(), start=1):
            steps.append(step)
            time.sleep(0.1)
            yield batch

    config = LoopConfig(checkpoint_every=1)
    with pytest.raises(CheckpointError, match="step_000001: cannot be written"):
        fit(make_engine(), slowly(), loss_function, FRESH, tmp_path, config)
    assert len(steps) <= 2


def test_an_overflowing_gradient_ends_the_run_after_so_many_steps(
    tmp_path: Path, make_engine: Make, make_stream: Stream, loss_function: LossFunction
) -> None:
    def overflowing(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return loss_function(logits, label) + (logits.sum() * 0).sqrt()  # slope inf, value 0

    config = LoopConfig(max_skipped=3)
    with pytest.raises(TrainingError, match=r"step 3: 3 steps .* gradient .* 4 \(s4\), 5 \(s5\);"):
        fit(make_engine(), make_stream(), overflowing, FRESH, tmp_path, config)


def test_data_that_ends_is_an_error(
    tmp_path: Path, make_engine: Make, make_stream: Stream, loss_function: LossFunction
) -> None:
    with pytest.raises(TrainingError, match="the data ended"):
        fit(make_engine(), islice(make_stream(), 3), loss_function, FRESH, tmp_path, LoopConfig())


def test_validation_runs_in_evaluation_mode_and_is_written_down(
    tmp_path: Path, make_engine: Make, make_stream: Stream, loss_function: LossFunction
) -> None:
    engine = make_engine()

    def validate(step: int) -> Mapping[str, float]:
        assert not engine.module.training
        return {"val_dice": step / 10}

    config = LoopConfig(log_every=2, validate_every=3)
    fit(engine, make_stream(), loss_function, FRESH, tmp_path, config, Hooks(validate))
    found = {row["step"]: row.get("val_dice") for row in rows(tmp_path)}
    assert found == {2: None, 3: 0.3, 4: None, 6: 0.6}
    assert engine.module.training


def test_a_signal_saves_and_the_run_goes_on_where_it_was(
    tmp_path: Path, make_engine: Make, make_stream: Stream, loss_function: LossFunction
) -> None:
    config = LoopConfig(log_every=1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(make_engine(), make_stream(), loss_function, FRESH, whole, config)

    def until_the_third() -> Iterator[Batch]:
        for step, batch in enumerate(make_stream(), start=1):
            if step == 3:
                os.kill(os.getpid(), signal.SIGUSR2)
            yield batch

    with pytest.raises(Preempted, match="step_000003") as caught:
        fit(make_engine(), until_the_third(), loss_function, FRESH, cut, config)
    assert caught.value.exit_code == 75
    engine = make_engine(seed=1)
    state = checkpoint.restore(engine, cut / "checkpoints", FRESH)
    assert state.step == 3
    fit(engine, make_stream(state.step), loss_function, state, cut, config)
    last = "checkpoints/step_000006"
    expected, found = load_weights(whole / last), load_weights(cut / last)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read_state(cut / last) == read_state(whole / last)
    kept = [[(row["step"], row["loss"]) for row in rows(run)] for run in (whole, cut)]
    assert kept[0] == kept[1]


def test_a_finished_run_is_not_touched(
    tmp_path: Path, make_engine: Make, make_stream: Stream, loss_function: LossFunction
) -> None:
    engine, config = make_engine(), LoopConfig()
    done = fit(engine, make_stream(), loss_function, FRESH, tmp_path, config)
    before = engine.gather_weights()
    assert fit(engine, iter(()), loss_function, done, tmp_path, config) == done
    assert all(torch.equal(value, before[name]) for name, value in engine.gather_weights().items())


def test_intervals_of_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loop\.keep_checkpoints 0"):
        LoopConfig(keep_checkpoints=0)
