"""Low-rank changes: nothing at first, little to train, and a plain network in the end."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stunet.models.lora import add_lora, merge_lora
from stunet.models.spec import ModelConfig
from stunet.registry import build_model

CONFIG = ModelConfig(
    size="XS", in_channels=1, classes=3, strides=((2, 2, 2),) * 2 + ((1, 1, 1),) * 3
)


def image() -> Tensor:
    return torch.randn(1, 1, 8, 8, 12, generator=torch.Generator().manual_seed(1))


def in_decoder(name: str) -> bool:
    return name.startswith("conv_blocks_localization")


def changed() -> nn.Module:
    """A network whose low-rank changes are no longer zero."""
    model = build_model(CONFIG, seed=0)
    add_lora(model, 3, seed=0, where=in_decoder)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_up"):
                parameter.uniform_(-0.1, 0.1, generator=generator)
    return model


def test_they_change_nothing_before_training() -> None:
    plain, adapted = build_model(CONFIG, seed=0), build_model(CONFIG, seed=0)
    names = add_lora(adapted, 3, seed=0, where=in_decoder)
    assert len(names) == 15 and all(map(in_decoder, names))
    for ours, theirs in zip(adapted(image()), plain(image()), strict=True):
        assert torch.equal(ours, theirs)


def test_merged_they_are_the_plain_network_with_the_same_output() -> None:
    adapted, plain = changed(), build_model(CONFIG, seed=5)
    plain.load_state_dict(merge_lora(adapted.state_dict()))
    before = build_model(CONFIG, seed=0)
    for ours, theirs, first in zip(adapted(image()), plain(image()), before(image()), strict=True):
        assert torch.equal(ours, theirs)
        assert not torch.allclose(ours, first)


def test_the_change_is_of_the_rank_and_scale_of_the_definition() -> None:
    adapted = changed()
    stem = "conv_blocks_localization.2.0.conv1"
    state = adapted.state_dict()
    merged = merge_lora(state)[f"{stem}.weight"]
    change = (merged - state[f"{stem}.weight"]).flatten(1).double()
    down, up = (state[f"{stem}.{name}"].double() for name in ("lora_down", "lora_up"))
    torch.testing.assert_close(change, up @ down / math.sqrt(3), rtol=1e-3, atol=1e-6)
    assert int((torch.linalg.svdvals(change) > 1e-5).sum()) == 3


def test_only_the_change_learns_where_a_convolution_is_replaced() -> None:
    adapted = changed()
    torch.stack([logits.square().sum() for logits in adapted(image())]).sum().backward()
    for name, parameter in adapted.named_parameters():
        last = name.rpartition(".")[2]
        replaced = in_decoder(name) and ".conv" in name
        assert (parameter.grad is None) == (replaced and not last.startswith("lora_")), name


def test_a_network_without_them_stays_as_it_is() -> None:
    state = build_model(CONFIG, seed=0).state_dict()
    merged = merge_lora(state)
    assert list(merged) == list(state) and all(merged[name] is state[name] for name in state)
