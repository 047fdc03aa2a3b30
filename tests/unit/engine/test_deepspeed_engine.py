"""One process; the stages are compared with plain torch in `tests/distributed`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import deepspeed
import pytest
import torch
from torch import nn
from torch.utils.cpp_extension import _get_build_directory

from stunet.engine import distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.optim import OptimConfig, learning_rate
from stunet.engine.parallel import ParallelConfig
from stunet.engine.step import LossFunction, train_step
from stunet.errors import ConfigError
from stunet.types import Batch

Make = Callable[..., TrainEngine]
Stream = Callable[..., Iterator[Batch]]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_shared_memory_op_is_not_compiled(make_engine: Make) -> None:
    make_engine()
    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False
    assert not hasattr(torch.ops.deepspeed, "inference_all_reduce")
    assert deepspeed.__version__.startswith("0.19."), "check that the private table still exists"


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_process_trains_again_after_it_left_its_group(
    make_net: Callable[[int], nn.Module],
    make_batch: Callable[..., Batch],
    loss_function: LossFunction,
    stage: int,
) -> None:
    found = []
    for _ in range(2):
        parallel = ParallelConfig(stage, 2, "fp32")
        engine = TrainEngine.start(make_net(0), OptimConfig(total_steps=6), parallel, 2)
        train_step(engine, [make_batch(0)], loss_function)
        found.append(engine.gather_weights())
        engine.close()
        distributed.stop()
    assert same(*found)


def test_stage_follows_from_the_number_of_ranks(make_engine: Make) -> None:
    engine = make_engine(stage=None)
    assert engine.zero_stage == 0
    assert (engine.accumulation, engine.global_batch, engine.total_steps) == (1, 2, 6)


def test_a_batch_that_cannot_be_shared_out_is_refused(make_engine: Make) -> None:
    with pytest.raises(ConfigError, match="global batch 2"):
        make_engine(micro_batch=3)


def test_step_reports_what_it_did(
    make_engine: Make, make_batch: Callable[..., Batch], loss_function: LossFunction
) -> None:
    engine = make_engine(lr=0.5)
    result = train_step(engine, [make_batch(0)], loss_function)
    assert result.losses.shape == (1,) and not result.losses.requires_grad
    assert result.lr == 0.5 and not result.skipped
    assert result.grad_norm > 0
    second = train_step(engine, [make_batch(1)], loss_function)
    assert second.lr == 0.5 * (5 / 6) ** 0.9
    assert engine.steps_done == 2


@pytest.mark.parametrize("stage", [0, 2])
def test_accumulated_micro_batches_equal_the_whole(
    make_engine: Make,
    make_batch: Callable[..., Batch],
    loss_function: LossFunction,
    stage: int,
) -> None:
    whole, halves = make_engine(stage=stage), make_engine(stage=stage, micro_batch=1)
    assert halves.accumulation == 2
    for step in range(3):
        batch = make_batch(step)
        cut = [
            Batch(batch.image_bcdhw[i : i + 1], batch.label_bdhw[i : i + 1], (i,)) for i in (0, 1)
        ]
        a = train_step(whole, [batch], loss_function)
        b = train_step(halves, cut, loss_function)
        assert b.losses.shape == (2,)
        assert float(a.losses.mean()) == pytest.approx(float(b.losses.mean()), abs=1e-6)
        assert float(a.grad_norm) == pytest.approx(float(b.grad_norm), rel=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_an_infinite_loss_with_finite_gradients_moves_nothing(
    make_engine: Make, make_batch: Callable[..., Batch], loss_function: LossFunction, stage: int
) -> None:
    engine = make_engine(stage=stage)
    train_step(engine, [make_batch(0)], loss_function)
    weights, moments = engine.gather_weights(), engine.gather_optimizer()
    result = train_step(engine, [make_batch(1)], lambda x, y: loss_function(x, y) + torch.inf)
    assert result.skipped and not torch.isfinite(result.grad_norm)
    assert same(engine.gather_weights(), weights) and same(engine.gather_optimizer(), moments)
    good = train_step(engine, [make_batch(2)], loss_function)
    assert not good.skipped
    assert good.lr == learning_rate(engine._optim, 2)  # the schedule goes with the data
    assert not same(engine.gather_weights(), weights)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_state_moves_to_another_engine(
    make_engine: Make, make_stream: Stream, loss_function: LossFunction, stage: int, name: str
) -> None:
    first, stream = make_engine(stage=stage, name=name), make_stream()
    for _ in range(2):
        train_step(first, [next(stream)], loss_function)
    weights, moments = first.gather_weights(), first.gather_optimizer()
    assert {key: tuple(value.shape) for key, value in weights.items()} == first.weight_shapes()
    assert {key: tuple(value.shape) for key, value in moments.items()} == first.optimizer_shapes()
    assert "version" in weights and "scratch" not in weights
    second = make_engine(stage=stage, name=name, seed=1)
    second.load_weights(weights.__getitem__)
    second.load_optimizer(moments.__getitem__, steps_done=2)
    batch = next(stream)
    a, b = (train_step(engine, [batch], loss_function) for engine in (first, second))
    assert torch.equal(a.losses, b.losses) and a.lr == b.lr
    assert same(first.gather_weights(), second.gather_weights())
    assert same(first.gather_optimizer(), second.gather_optimizer())


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimiser_in_host_memory_computes_the_same_and_is_saved(
    make_engine: Make, make_stream: Stream, loss_function: LossFunction, stage: int, name: str
) -> None:
    ends, stream = [], make_stream()
    here = make_engine(stage=stage, name=name)
    away = make_engine(stage=stage, name=name, offload="cpu")
    for _ in range(2):
        batch = next(stream)
        ends = [train_step(engine, [batch], loss_function) for engine in (here, away)]
    assert float(ends[0].losses) == pytest.approx(float(ends[1].losses), abs=1e-6)
    # Saved from the one and continued by the other, to the bit.
    away.load_weights(here.gather_weights().__getitem__)
    away.load_optimizer(here.gather_optimizer().__getitem__, steps_done=2)
    batch = next(stream)
    for engine in (here, away):
        train_step(engine, [batch], loss_function)
    assert same(here.gather_weights(), away.gather_weights())
    assert same(here.gather_optimizer(), away.gather_optimizer())


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)


def built_async_io() -> bool:
    """Whether this environment's DeepSpeed has compiled what reads and writes files: minutes."""
    folder = Path(_get_build_directory("async_io", verbose=False))
    built = (folder / "async_io.so").exists() and sys.prefix in (folder / "build.ninja").read_text()
    return built and deepspeed.ops.__compatible_ops__["async_io"]


@pytest.mark.filterwarnings("ignore")  # of the loader of compiled extensions
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimiser_in_files_computes_the_same_and_is_saved(
    tmp_path: Path, make_engine: Make, name: str
) -> None:
    if not built_async_io():
        pytest.skip("DeepSpeed's async_io is not compiled here: parallel.offload=nvme does it once")

    def wide_net() -> nn.Module:  # DeepSpeed leaves less than 1 MB where it is
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv3d(1, 64, 1), nn.Conv3d(64, 200, 3), nn.Conv3d(200, 2, 1))

    def step(engine: TrainEngine) -> None:
        engine.backward((engine.forward(torch.ones(2, 1, 4, 4, 4)) - 1).square().mean())
        engine.step()

    here = make_engine(model=wide_net(), stage=3, name=name, lr=1e-3)
    away = make_engine(
        model=wide_net(), stage=3, name=name, lr=1e-3, offload="nvme", nvme_path=str(tmp_path)
    )
    for engine in (here, away):
        step(engine)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.swp")) > 2**20
    weights, moments = here.gather_weights(), here.gather_optimizer()
    assert_close(away.gather_weights(), weights)
    assert_close(away.gather_optimizer(), moments)
    for engine in (here, away):
        step(engine)
    # Back to the state after one step, from the other engine, and on from there.
    away.load_weights(weights.__getitem__)
    away.load_optimizer(moments.__getitem__, steps_done=1)
    assert same(away.gather_weights(), weights) and same(away.gather_optimizer(), moments)
    step(away)
    assert_close(away.gather_weights(), here.gather_weights())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_evaluation_uses_the_average_and_leaves_the_weights(
    make_engine: Make, make_stream: Stream, loss_function: LossFunction, stage: int
) -> None:
    engine, stream = make_engine(stage=stage, lr=0.5, ema_decay=0.9), make_stream()
    for _ in range(3):
        train_step(engine, [next(stream)], loss_function)
    weights, average = engine.gather_weights(), engine.gather_average()
    assert not same(weights, average)
    with engine.evaluating():
        assert same(engine.gather_weights(), average)
    assert same(engine.gather_weights(), weights) and same(engine.gather_average(), average)


def test_a_skipped_step_leaves_the_average(
    make_engine: Make, make_batch: Callable[..., Batch], loss_function: LossFunction
) -> None:
    engine = make_engine(ema_decay=0.9)
    train_step(engine, [make_batch(0)], loss_function)
    average = engine.gather_average()
    rejected = train_step(engine, [make_batch(1)], loss_function, lambda losses: True)
    assert rejected.rejected and rejected.skipped
    assert same(engine.gather_average(), average)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_frozen_weights_stay_and_are_saved(
    make_engine: Make,
    make_net: Callable[[int], nn.Module],
    make_batch: Callable[..., Batch],
    loss_function: LossFunction,
    stage: int,
) -> None:
    net = make_net(0)
    net.get_submodule("enter").requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    engine = make_engine(stage=stage, model=net)
    train_step(engine, [make_batch(0)], loss_function)
    after = engine.gather_weights()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert "momentum_buffer/enter.weight" not in engine.optimizer_shapes()
    other = make_engine(stage=stage, seed=1)
    other.load_weights(after.__getitem__)
    assert same(other.gather_weights(), after)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weights_that_the_loss_does_not_use_decay_at_every_stage(
    make_engine: Make,
    make_net: Callable[[int], nn.Module],
    make_stream: Stream,
    loss_function: LossFunction,
    name: str,
) -> None:
    ends = []
    for stage in (0, 1, 3):
        net, stream = make_net(0), make_stream()
        net.register_parameter("unused", nn.Parameter(torch.ones(5)))
        engine = make_engine(stage=stage, model=net, name=name, lr=0.1, weight_decay=0.5)
        for _ in range(3):
            train_step(engine, [next(stream)], loss_function)
        ends.append(engine.gather_weights()["unused"])
        assert torch.all(ends[-1] < 1)
        torch.testing.assert_close(ends[-1], ends[0])


def test_channels_last_weights_are_accepted(
    make_engine: Make, make_net: Callable[[int], nn.Module]
) -> None:
    net = make_net(0)
    for parameter in net.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert same(make_engine(stage=1, model=net).gather_weights(), before)


def test_evaluating_keeps_no_gradient(make_engine: Make, make_batch: Callable[..., Batch]) -> None:
    engine = make_engine()
    with engine.evaluating():
        assert not engine.module.training
        assert not engine.forward(make_batch(0).image_bcdhw).requires_grad
    assert engine.module.training
    assert engine.forward(make_batch(0).image_bcdhw).requires_grad
