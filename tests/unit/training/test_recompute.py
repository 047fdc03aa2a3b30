from dataclasses import replace

import pytest

from pretrain.config import PretrainConfig
from stunet.engine.parallel import ParallelConfig
from stunet.models.spec import ISOTROPIC_STRIDES, ModelConfig
from stunet.models.speed import SpeedConfig
from stunet.training.recompute import decided_speed
from stunet.types import Size3

CONFIG = PretrainConfig(
    out="o",
    store="s",
    speed=SpeedConfig(fused_norm=False, recompute="auto"),
    parallel=ParallelConfig(precision="fp32"),
)


def network(size: str) -> ModelConfig:
    return ModelConfig(size=size, in_channels=1, classes=105, strides=ISOTROPIC_STRIDES)


@pytest.mark.parametrize(
    ("size", "patch", "chosen"),
    [("XS", (32, 32, 64), "none"), ("H", (1024, 1024, 1024), "block")],  # about 1 GB, 100 TB
)
def test_blocks_are_recomputed_where_memory_asks_for_it(
    size: str, patch: Size3, chosen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    decided = decided_speed(CONFIG, network(size), patch)
    assert decided == replace(CONFIG.speed, recompute=chosen)
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"speed.recompute=auto: {chosen}; a step needs about ")


def test_what_the_recipe_decides_stays() -> None:
    recipe = replace(CONFIG, speed=SpeedConfig(recompute="block"))
    assert decided_speed(recipe, network("XS"), (32, 32, 64)) is recipe.speed
