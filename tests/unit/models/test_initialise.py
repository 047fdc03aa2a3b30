import math

import torch
from torch import nn

from stunet.models.initialise import initialise
from stunet.models.spec import ISOTROPIC_STRIDES, ModelConfig
from stunet.registry import build_model


def config(classes: int = 3) -> ModelConfig:
    return ModelConfig(size="XS", in_channels=1, classes=classes, strides=ISOTROPIC_STRIDES)


def test_distribution_is_kaiming_normal() -> None:
    model = build_model(config(), seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            fan_in = module.weight[0].numel()
            expected = math.sqrt(2 / ((1 + 0.01**2) * fan_in))
            n = module.weight.numel()
            if n > 1000:  # the standard deviation of n draws is known to 1 / sqrt(2 n)
                deviation = module.weight.std().item() / expected - 1
                assert abs(deviation) < 5 / math.sqrt(2 * n)
                # Normal, not uniform of the same spread: some draws lie beyond sqrt(3) sigma.
                assert module.weight.abs().max() > 2.5 * expected
            assert module.bias is not None and not module.bias.any()
        elif isinstance(module, nn.InstanceNorm3d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()


def test_seed_decides_and_global_state_is_untouched() -> None:
    before = torch.get_rng_state()
    one, same, other = (build_model(config(), seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    key = "conv_blocks_localization.4.0.conv1.weight"
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one[key], other[key])


def test_backbone_does_not_depend_on_the_classes() -> None:
    few, many = (build_model(config(classes), seed=1).state_dict() for classes in (2, 9))
    shared = [key for key in few if not key.startswith("seg_outputs")]
    assert len(shared) == 120
    assert all(torch.equal(few[key], many[key]) for key in shared)


def test_initialise_twice_gives_the_same() -> None:
    model = build_model(config(), seed=1)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    initialise(model, seed=1)
    assert all(torch.equal(model.state_dict()[key], expected[key]) for key in expected)
