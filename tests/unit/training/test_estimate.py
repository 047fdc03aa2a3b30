"""What an estimate says against what can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pretrain.config import PretrainConfig
from stunet.engine.hardware import GPUS, GpuFacts
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig
from stunet.errors import ConfigError
from stunet.models.spec import ISOTROPIC_STRIDES, ModelConfig
from stunet.models.speed import SpeedConfig
from stunet.training.estimate import USABLE, Estimate, estimate

B = 58_262_669  # parameters, specs of the published network
PATCH = (128, 128, 128)
NETWORK = ModelConfig(size="B", in_channels=1, classes=105, strides=ISOTROPIC_STRIDES)


def needs(gpus: int = 1, gpu: str | GpuFacts = "H200", batch: int = 8, **parts: Any) -> Estimate:
    config = PretrainConfig("out", "store", global_batch=batch, **parts)
    return estimate(config, NETWORK, PATCH, GPUS[gpu] if isinstance(gpu, str) else gpu, gpus)


def test_parameters_and_work_are_those_of_the_published_network() -> None:
    found = needs()
    assert found.parameters == B
    # 0.5071 T multiply-adds are published, with biases and convolutions behind the interpolation.
    assert found.forward_flops == pytest.approx(2 * 0.5071e12, rel=0.02)
    assert found.step_flops == 3 * 8 * found.forward_flops


def test_states_of_a_rank_follow_from_the_zero_stage() -> None:
    found = needs(gpus=4, optim=OptimConfig(name="adamw"))
    moments, copy = 8 * B, 4 * B  # from stage 1 DeepSpeed steps on a copy
    expected = [moments] + 3 * [(moments + copy) / 4]
    assert [need.memory.optimizer for need in found.stages] == pytest.approx(expected)
    assert [need.memory.weights for need in found.stages] == pytest.approx(
        [4 * B, 4 * B, 4 * B, 4 * B + B]
    )
    averaged = needs(gpus=4, optim=OptimConfig(ema_decay=0.999)).recipe.memory.optimizer
    assert averaged == pytest.approx((4 + 4 + 4) * B / 4)


def test_feature_maps_grow_with_the_micro_batch_and_shrink_when_recomputed() -> None:
    def kept(micro_batch: int, recompute: Any = "none") -> int:
        parallel = ParallelConfig(micro_batch=micro_batch)
        speed = SpeedConfig(recompute=recompute)
        return needs(parallel=parallel, speed=speed).recipe.memory.activations

    copies = 2 * B  # of the weights in bf16, whatever the batch
    assert kept(4) - copies == pytest.approx(2 * (kept(2) - copies), rel=0.01)
    assert kept(2, "block") < 0.6 * kept(2)


def test_the_advice_fits_and_nothing_that_fits_is_faster() -> None:
    small = replace(GPUS["H200"], memory_gib=12)
    found = needs(gpu=small, parallel=ParallelConfig(micro_batch=8))
    assert not found.recipe.fits
    assert found.best is not None
    assert found.best.memory.peak <= USABLE * 12 * 2**30
    assert (found.best.micro_batch, found.best.recompute) == (2, "none")
    tiny = needs(gpu=replace(small, memory_gib=1))
    assert tiny.best is None


def test_what_the_recipe_leaves_open_is_decided_by_memory() -> None:
    auto = {"speed": SpeedConfig(recompute="auto"), "parallel": ParallelConfig(micro_batch=8)}
    assert needs(**auto).recipe.recompute == "none"
    assert needs(gpu="RTX4090", **auto).recipe.recompute == "block"


def test_twice_the_gpus_halve_the_computing_and_the_batch_must_be_shared_evenly() -> None:
    one, two, four = (needs(gpus, batch=64).recipe.step_s for gpus in (1, 2, 4))
    assert 1.7 < one / two < 2
    assert 1.7 < two / four < 2
    with pytest.raises(ConfigError, match="global batch 8 is no multiple of 3 ranks"):
        needs(gpus=3)


def test_a_network_of_which_nothing_is_known_is_named() -> None:
    config = PretrainConfig("out", "store")
    other = replace(NETWORK, name="plain_conv_unet")
    with pytest.raises(ConfigError, match="plain_conv_unet"):
        estimate(config, other, PATCH, GPUS["H200"], 1)
