"""nnU-Net's U-Nets: closed forms against the built network, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stunet.errors import ConfigError
from stunet.models.parts import distance_to_output
from stunet.models.spec import ModelConfig
from stunet.models.unet_shape import UNetShape
from stunet.registry import build_model, model_spec

NAMES = ("plain_conv_unet", "residual_encoder_unet")
SHAPE = {
    "channels": (4, 6, 8, 8),
    "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "encoder_depth": (1, 3, 2, 1),
    "decoder_depth": (1, 2, 1),
}
STRIDES = ((1, 2, 2), (2, 2, 2), (1, 2, 2))


def config(name: str, **changes: Any) -> ModelConfig:
    options = {"in_channels": 2, "classes": 3, "strides": STRIDES, "unet": UNetShape(**SHAPE)}
    return ModelConfig(name=name, size="planned", **(options | changes))


@pytest.mark.parametrize("name", NAMES)
def test_closed_forms_equal_the_network(name: str) -> None:
    model = build_model(config(name))
    count = model_spec(name).parameter_count(config(name))
    assert count == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter:
        outputs = model(torch.zeros(1, 2, 8, 16, 24))
    assert counter.get_total_flops() == model_spec(name).forward_flops(config(name), (8, 16, 24))
    shapes = [tuple(output.shape[1:]) for output in outputs]
    assert shapes == [(3, 8, 16, 24), (3, 8, 8, 12), (3, 4, 4, 6)]


@pytest.mark.parametrize(
    ("name", "million"), [("plain_conv_unet", 31.2), ("residual_encoder_unet", 102.4)]
)
def test_the_sizes_of_nnunets_default_plans(name: str, million: float) -> None:
    """Isotropic plan of six stages: 31 M parameters, and 102 M of the preset ResEnc L."""
    residual = name == NAMES[1]
    shape = UNetShape(
        channels=(32, 64, 128, 256, 320, 320),
        kernels=((3, 3, 3),) * 6,
        encoder_depth=(1, 3, 4, 6, 6, 6) if residual else (2,) * 6,
        decoder_depth=(1 if residual else 2,) * 5,
    )
    described = config(name, in_channels=1, classes=2, strides=((2, 2, 2),) * 5, unet=shape)
    assert model_spec(name).parameter_count(described) == pytest.approx(million * 1e6, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_a_mirrored_network_is_the_network_in_a_mirror(name: str) -> None:
    plain = build_model(config(name)).eval()
    mirrored = build_model(config(name, mirrored=(0, 2))).eval()
    mirrored.load_state_dict(plain.state_dict())
    x = torch.randn(1, 2, 8, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(mirrored(x.flip(2, 4)).flip(2, 4), plain(x))
        assert not torch.equal(mirrored(x), plain(x))


@pytest.mark.parametrize("name", NAMES)
def test_weights_train_and_know_their_place(name: str) -> None:
    model = build_model(config(name), seed=1)
    again = build_model(config(name), seed=1)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])
    outputs = model(torch.randn(1, 2, 8, 16, 24))
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    distance = distance_to_output(model_spec(name), model.state_dict())
    assert distance["decoder.seg_layers.2.weight"] == 0
    assert distance["decoder.stages.2.convs.0.conv.weight"] == 1
    assert max(distance, key=distance.__getitem__).startswith("encoder.")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kernels": SHAPE["kernels"][1:]}, "4 channels, 3 kernels"),
        ({"decoder_depth": (1, 1, 1, 1)}, "4 decoder depths"),
        ({"channels": (4, 0, 8, 8)}, "numbers of 1 or more"),
        ({"kernels": ((2, 2, 2),) * 4}, "three odd edges"),
    ],
)
def test_stages_that_do_not_fit(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        UNetShape(**(SHAPE | change))


@pytest.mark.parametrize("name", NAMES)
def test_configs_that_do_not_describe_a_network(name: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.unet: .* needs it"):
        build_model(config(name, unet=None))
    with pytest.raises(ConfigError, match="4 stages take one less, got 2"):
        build_model(config(name, strides=STRIDES[:2]))
    with pytest.raises(ConfigError, match="1 channels, the network takes 2"):
        build_model(config(name))(torch.zeros(1, 1, 8, 16, 24))
    with pytest.raises(ConfigError, match=r"model.mirrored: \(3,\)"):
        config(name, mirrored=(3,))
