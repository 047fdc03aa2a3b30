"""What moves and how far, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finetune.config import AdaptConfig, FinetuneConfig, LoraConfig, PartRates
from finetune.recipe import adapt, l2_sp, parameter_groups
from stunet.errors import ConfigError
from stunet.models.parts import place_of
from stunet.models.spec import STUNET, ModelConfig
from stunet.registry import build_model

CONFIG = ModelConfig(size="XS", in_channels=1, classes=2, strides=((1, 1, 1),) * 5)


@pytest.fixture
def model() -> nn.Module:
    return build_model(CONFIG, seed=0)


def test_parts_that_are_not_trained_want_no_gradient(model: nn.Module) -> None:
    said = adapt(model, STUNET, AdaptConfig(train=("decoder", "head")), seed=0)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (place_of(STUNET, name).part != "encoder"), name
    assert "decoder" in said and "encoder" not in said


def test_low_rank_changes_leave_the_rest_of_their_part_frozen(model: nn.Module) -> None:
    how = AdaptConfig(train=("head",), lora=LoraConfig(rank=2, parts=("decoder",)))
    said = adapt(model, STUNET, how, seed=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    heads = {name for name in trained if name.startswith("seg_outputs")}
    assert len(heads) == 10
    assert {name.rpartition(".")[2] for name in trained - heads} == {"lora_down", "lora_up"}
    assert {place_of(STUNET, name).part for name in trained - heads} == {"decoder"}
    assert "decoder (low rank)" in said


def test_rates_follow_part_and_stage(model: nn.Module) -> None:
    how = AdaptConfig(lr=PartRates(encoder=0.1, decoder=0.5, head=2.0), stage_decay=0.9)
    adapt(model, STUNET, how, seed=0)
    groups = parameter_groups(model, STUNET, how, frozenset())
    scale_of = {id(p): group.lr_scale for group in groups for p in group.parameters}
    assert len(scale_of) == len(list(model.parameters()))
    weights = dict(model.named_parameters())
    for name, expected in {
        "seg_outputs.0.weight": 2.0,
        "conv_blocks_localization.4.0.conv1.weight": 0.5 * 0.9,
        "upsample_layers.0.conv.weight": 0.5 * 0.9**5,
        "conv_blocks_context.5.0.conv1.weight": 0.1 * 0.9**6,
        "conv_blocks_context.0.0.conv1.weight": 0.1 * 0.9**11,
    }.items():
        assert scale_of[id(weights[name])] == pytest.approx(expected, rel=1e-12), name


def test_l2_sp_pulls_what_is_trained_to_where_it_started(model: nn.Module) -> None:
    how = AdaptConfig(train=("head",), l2_sp=0.3)
    adapt(model, STUNET, how, seed=0)
    pulled = frozenset({"seg_outputs.1.weight", "conv_blocks_context.0.0.conv1.weight"})
    groups = parameter_groups(model, STUNET, how, pulled)
    head = dict(model.named_parameters())["seg_outputs.1.weight"]
    decays = {id(p): group.weight_decay for group in groups for p in group.parameters}
    assert decays[id(head)] == 0.0
    assert decays[id(dict(model.named_parameters())["seg_outputs.1.bias"])] is None
    penalty = l2_sp(model, 0.3, pulled)
    assert penalty().item() == 0
    start = head.detach().clone()
    with torch.no_grad():
        head += 0.01 * torch.arange(head.numel()).view_as(head)
    value = penalty()
    value.backward()
    moved = (head.detach() - start).double()
    assert value.item() == pytest.approx(0.15 * float(moved.square().sum()), rel=1e-5)
    torch.testing.assert_close(head.grad.double(), 0.3 * moved, rtol=1e-5, atol=1e-8)
    with pytest.raises(ConfigError, match="no weight of the bundle is trained"):
        l2_sp(model, 0.3, frozenset({"conv_blocks_context.0.0.conv1.weight"}))


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"adapt.train: 'heads' is no part; give some of encoder"):
        AdaptConfig(train=("heads",))
    with pytest.raises(ConfigError, match=r"adapt.lora.parts has encoder, decoder, which adapt.tr"):
        AdaptConfig(lora=LoraConfig(rank=4))
    with pytest.raises(ConfigError, match=r"adapt.lr.head=0: must be above 0"):
        PartRates(head=0)
    with pytest.raises(ConfigError, match=r"adapt.stage_decay=1.5"):
        AdaptConfig(stage_decay=1.5)
    with pytest.raises(ConfigError, match=r"init is not set; give init=BUNDLE .* init=none"):
        FinetuneConfig(out="o", store="s")
