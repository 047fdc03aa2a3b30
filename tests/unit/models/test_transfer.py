"""Weights as the start of another network: what must stay equal, and what must be refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stunet.errors import ConfigError
from stunet.models.spec import ModelConfig
from stunet.models.transfer import Change, feed, summarise, transfer_weights
from stunet.registry import build_model

STRIDES = ((2, 2, 2), (2, 2, 2), *((1, 1, 1),) * 3)
ENTRIES = frozenset(f"conv_blocks_context.0.0.{conv}.weight" for conv in ("conv1", "conv3"))
HEADS = frozenset(f"seg_outputs.{i}.{kind}" for i in range(5) for kind in ("weight", "bias"))


def network(channels: int, classes: int = 4, seed: int = 0, size: str = "XS") -> nn.Module:
    config = ModelConfig(size=size, in_channels=channels, classes=classes, strides=STRIDES)
    return build_model(config, seed).double()


def started(
    source: nn.Module,
    target: nn.Module,
    channels: tuple[tuple[float, ...], ...] | None = None,
    rows: tuple[tuple[int, ...], ...] | None = None,
) -> nn.Module:
    change = Change(ENTRIES, HEADS, channels, rows)
    weights, _ = transfer_weights(source.state_dict(), target.state_dict(), change)
    target.load_state_dict(weights)
    return target


def image(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, channels, 8, 16, 12, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("before", "now"), [(1, 2), (1, 5), (2, 3), (3, 2), (3, 1)])
def test_an_image_repeated_in_all_channels_gives_the_output_of_the_source(
    before: int, now: int
) -> None:
    source = network(before)
    names = [f"s{i}" for i in range(before)], [f"t{i}" for i in range(now)]
    target = started(source, network(now, seed=1), feed(*names))
    one = image(1)
    expected = source(one.expand(-1, before, -1, -1, -1))
    found = target(one.expand(-1, now, -1, -1, -1))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_channels_are_found_by_their_names() -> None:
    source = network(2)
    target = started(source, network(3, seed=1), feed(["T1", "T2"], ["PET", "T2", "t1"]))
    one = image(3)
    weight = target.state_dict()[min(ENTRIES)]
    assert torch.equal(weight[:, 1], source.state_dict()[min(ENTRIES)][:, 1])
    one[:, 0] = one[:, 2]  # PET shares the place of T1, by its position
    torch.testing.assert_close(target(one)[0], source(one[:, [2, 1]])[0])


def test_shared_structures_start_with_the_logits_of_the_source_at_every_resolution() -> None:
    source = network(1, classes=4)
    fresh = network(1, classes=3, seed=1)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    target = started(source, fresh, rows=((0,), (), (3,)))
    for ours, theirs in zip(target(image(1)), source(image(1)), strict=True):
        torch.testing.assert_close(ours[:, [0, 2]], theirs[:, [0, 3]])
    for name in HEADS:
        assert torch.equal(target.state_dict()[name][1], before[name][1])


def test_a_union_starts_from_the_mean_of_its_outputs() -> None:
    source = network(1, classes=4)
    target = started(source, network(1, classes=2), rows=((0,), (1, 2)))
    head = "seg_outputs.4.weight"
    mean = source.state_dict()[head][1:3].mean(dim=0)
    torch.testing.assert_close(target.state_dict()[head][1], mean)


def test_every_tensor_is_in_the_table() -> None:
    source, fresh = network(1).state_dict(), network(2, classes=2).state_dict()
    halves = Change(ENTRIES, HEADS, ((0.5, 0.5),), ((0,), ()))
    _, records = transfer_weights(source, fresh, halves)
    assert [record.name for record in records] == list(fresh)
    kinds = {record.name: record.what for record in records}
    assert {name for name, what in kinds.items() if what == "inflated"} == ENTRIES
    assert {name for name, what in kinds.items() if what == "rows matched"} == HEADS
    assert {kinds[name] for name in set(fresh) - ENTRIES - HEADS} == {"loaded"}
    told = summarise(records)
    assert any("inflated: 2 tensors" in line and "1 to 2 image" in line for line in told)
    assert any(
        "10 tensors" in line and "1 outputs from the source, 1 anew" in line for line in told
    )


def test_heads_without_a_shared_structure_start_anew_and_the_sources_are_skipped() -> None:
    source, fresh = network(1).state_dict(), network(1, classes=2, seed=1).state_dict()
    weights, records = transfer_weights(source, fresh, Change(ENTRIES, HEADS, None, ((), ())))
    for name in HEADS:
        assert torch.equal(weights[name], fresh[name])
        found = {record.what: record.shape for record in records if record.name == name}
        assert found == {
            "re-initialised": tuple(fresh[name].shape),
            "skipped": tuple(source[name].shape),
        }


def test_what_differs_otherwise_is_refused_by_name() -> None:
    same = Change(ENTRIES, HEADS)
    source = network(1).state_dict()
    with pytest.raises(ConfigError, match=r"conv_blocks_context.0.0.conv1.weight is \(8, 1, 3"):
        transfer_weights(source, network(1, size="S").state_dict(), same)
    with pytest.raises(ConfigError, match=r"conv_blocks_context.0.0.conv1.weight is .*\(8, 2, 3"):
        transfer_weights(source, network(2).state_dict(), same)
    with pytest.raises(ConfigError, match=r"seg_outputs.0.weight is \(4, 128, .*\(3, 128"):
        transfer_weights(source, network(1, classes=3).state_dict(), same)
    less = {name: tensor for name, tensor in source.items() if name != "seg_outputs.2.bias"}
    with pytest.raises(ConfigError, match=r"the source has no seg_outputs.2.bias"):
        transfer_weights(less, source, same)
    with pytest.raises(ConfigError, match=r"seg_outputs.2.bias of the source has no place"):
        transfer_weights(source, less, same)
