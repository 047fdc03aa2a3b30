from __future__ import annotations

from typing import Any

import pytest

from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig, accumulation_steps, deepspeed_config
from stunet.errors import ConfigError


def test_accumulation_fills_the_global_batch() -> None:
    assert accumulation_steps(global_batch=48, micro_batch=2, world=8) == 3


@pytest.mark.parametrize(("batch", "micro", "world"), [(6, 2, 2), (2, 2, 2), (0, 1, 1)])
def test_a_batch_that_cannot_be_shared_out_is_refused(batch: int, micro: int, world: int) -> None:
    with pytest.raises(ConfigError, match=f"global batch {batch} .*{world} ranks"):
        accumulation_steps(batch, micro, world)


@pytest.mark.parametrize("settings", [{"zero_stage": 4}, {"micro_batch": 0}])
def test_impossible_values_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"parallel\.\w+ \d"):
        ParallelConfig(**settings)


def test_what_deepspeed_is_told() -> None:
    config = deepspeed_config(OptimConfig(clip_norm=5.0), ParallelConfig(1, 3), 1, 2, 1001)
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["gradient_accumulation_steps"] == 2
    assert config["gradient_clipping"] == 5.0
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert config["zero_optimization"]["stage"] == 1
    assert config["zero_optimization"]["allgather_bucket_size"] == 1002
    assert "train_batch_size" not in config


def test_fp32_and_stage_0() -> None:
    parallel = ParallelConfig(0, precision="fp32")
    config = deepspeed_config(OptimConfig(), parallel, 0, 1, 10**9)
    assert "torch_autocast" not in config
    assert config["gradient_clipping"] == 0.0  # the engine clips, and reports the norm
    assert config["zero_optimization"]["reduce_bucket_size"] == 100_000_000


def test_the_users_entries_are_merged_last() -> None:
    extra = {"zero_optimization": {"overlap_comm": False, "round_robin_gradients": True}, "x": 1}
    config = deepspeed_config(OptimConfig(), ParallelConfig(deepspeed=extra), 2, 1, 10)
    assert config["zero_optimization"]["overlap_comm"] is False
    assert config["zero_optimization"]["round_robin_gradients"] is True
    assert config["zero_optimization"]["stage"] == 2
    assert config["x"] == 1
    assert extra["zero_optimization"] == {"overlap_comm": False, "round_robin_gradients": True}


@pytest.mark.parametrize(
    ("extra", "ours"),
    [
        ({"gradient_clipping": 1.0}, "optim.clip_norm"),
        ({"bf16": {"enabled": True}}, "parallel.precision"),
        ({"zero_optimization": {"stage": 2}}, "parallel.zero_stage"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "parallel.offload"),
    ],
)
def test_what_has_a_key_of_ours_is_refused(extra: dict[str, Any], ours: str) -> None:
    with pytest.raises(ConfigError, match=f"set {ours} instead"):
        deepspeed_config(OptimConfig(), ParallelConfig(deepspeed=extra), 1, 1, 10)


@pytest.mark.parametrize(
    ("settings", "world", "stage"),
    [
        ({}, 1, 0),
        ({}, 2, 1),
        ({"zero_stage": 3}, 1, 3),
        ({"offload": "cpu"}, 1, 1),
        ({"offload": "nvme", "nvme_path": "/scratch"}, 8, 3),
    ],
)
def test_the_stage_follows_from_ranks_and_offload(
    settings: dict[str, Any], world: int, stage: int
) -> None:
    assert ParallelConfig(**settings).stage(world) == stage


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"offload": "cpu", "zero_stage": 0}, "needs ZeRO stage 1 or above, not 0"),
        ({"offload": "nvme", "zero_stage": 2, "nvme_path": "/x"}, "set parallel.zero_stage=3"),
        ({"offload": "nvme"}, "parallel.nvme_path None: set both for nvme"),
        ({"offload": "cpu", "nvme_path": "/x"}, "else neither"),
    ],
)
def test_offload_that_cannot_be_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ParallelConfig(**settings)


def test_what_deepspeed_is_told_of_offload() -> None:
    parallel = ParallelConfig(offload="nvme", nvme_path="/scratch")
    config = deepspeed_config(OptimConfig(), parallel, 3, 1, 10)
    told = config["zero_optimization"]["offload_optimizer"]
    assert (told["device"], told["nvme_path"]) == ("nvme", "/scratch")
    assert config["zero_force_ds_cpu_optimizer"] is False
