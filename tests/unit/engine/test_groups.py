"""Weights that move unlike each other, at every ZeRO stage, against plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.optim import OptimConfig, ParameterGroup, learning_rate
from stunet.engine.parallel import ParallelConfig
from stunet.engine.step import train_step
from stunet.types import Batch

CONFIG = OptimConfig(lr=0.05, weight_decay=0.1, warmup_steps=1, total_steps=4, clip_norm=None)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_groups_of_a_network_with_a_frozen_part_move_as_in_plain_torch(
    stage: int,
    make_net: Callable[[int], nn.Module],
    make_stream: Callable[[], Iterator[Batch]],
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    plain, net = make_net(1), make_net(1)
    for each in (plain, net):
        each.get_submodule("norm").requires_grad_(False)
    enter, head = (list(plain.get_submodule(n).parameters()) for n in ("enter", "head"))
    optimizer = torch.optim.SGD(
        [{"params": head}, {"params": enter, "weight_decay": 0.0}],
        lr=1.0,
        momentum=0.99,
        nesterov=True,
        weight_decay=0.1,
    )
    groups = [
        ParameterGroup(list(net.get_submodule("head").parameters())),
        ParameterGroup(list(net.get_submodule("norm").parameters()), 3.0),
        ParameterGroup(list(net.get_submodule("enter").parameters()), 0.1, weight_decay=0.0),
    ]
    engine = TrainEngine.start(net, CONFIG, ParallelConfig(stage, 2, "fp32"), 2, groups)
    stream = make_stream()
    for step in range(4):
        batch = next(stream)
        optimizer.zero_grad()
        loss_function(plain(batch.image_bcdhw), batch.label_bdhw).backward()
        for group, scale in zip(optimizer.param_groups, (1.0, 0.1), strict=True):
            group["lr"] = scale * learning_rate(CONFIG, step)
        optimizer.step()
        train_step(engine, [batch], loss_function)
    found = engine.gather_weights()
    moments = engine.gather_optimizer()
    engine.close()
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(found[name], weight.detach(), atol=1e-6, rtol=1e-5)
        if weight.requires_grad:
            expected = optimizer.state[weight]["momentum_buffer"]
            torch.testing.assert_close(
                moments[f"momentum_buffer/{name}"], expected, atol=1e-6, rtol=1e-4
            )
    assert not any("norm" in name for name in moments)
