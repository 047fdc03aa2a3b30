"""Where weights are in their networks."""

from __future__ import annotations

import pytest
import torch

from stunet.errors import ConfigError
from stunet.models.parts import Place, distance_to_output, place_of
from stunet.models.spec import STUNET, ModelConfig
from stunet.models.unet_shape import UNetShape
from stunet.registry import build_model, model_spec


def names() -> list[str]:
    with torch.device("meta"):
        config = ModelConfig(in_channels=1, classes=2, strides=((2, 2, 2),) * 5)
        return list(build_model(config).state_dict())


def test_every_weight_is_in_a_part() -> None:
    counts = dict.fromkeys(("encoder", "decoder", "head"), 0)
    for name in names():
        counts[place_of(STUNET, name).part] += 1
    assert counts == {"encoder": 6 * 10, "decoder": 5 * 10 + 5 * 2, "head": 5 * 2}
    assert place_of(STUNET, "conv_blocks_context.4.1.conv1.weight") == Place("encoder", 4)
    with pytest.raises(ConfigError, match=r"weight classifier.weight is in no part"):
        place_of(STUNET, "classifier.weight")


def test_stages_are_counted_from_the_output() -> None:
    distance = distance_to_output(STUNET, names())
    for stage in range(5):
        assert distance[f"conv_blocks_localization.{stage}.0.conv1.weight"] == 5 - stage
        assert distance[f"upsample_layers.{stage}.conv.bias"] == 5 - stage
        assert distance[f"seg_outputs.{stage}.weight"] == 0
    for stage in range(6):
        assert distance[f"conv_blocks_context.{stage}.0.norm1.weight"] == 11 - stage


@pytest.mark.parametrize("name", ["plain_conv_unet", "residual_encoder_unet"])
def test_networks_of_nnunet_are_in_parts_too(name: str) -> None:
    shape = UNetShape((4, 8, 8), ((3, 3, 3),) * 3, (2, 2, 2), (1, 1))
    strides = ((2, 2, 2), (1, 2, 2))
    config = ModelConfig(name=name, in_channels=1, classes=2, strides=strides, unet=shape)
    with torch.device("meta"):
        names = list(build_model(config).state_dict())
    distance = distance_to_output(model_spec(name), names)
    by_part: dict[str, set[int]] = {}
    for weight, stages in distance.items():
        by_part.setdefault(place_of(model_spec(name), weight).part, set()).add(stages)
    assert by_part == {"head": {0}, "decoder": {1, 2}, "encoder": {3, 4, 5}}
