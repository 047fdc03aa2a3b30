from __future__ import annotations

import pytest
import torch
from torch import nn

from stunet.engine.optim import (
    OptimConfig,
    ParameterGroup,
    build_optimizer,
    create_state,
    learning_rate,
    set_learning_rate,
    state_keys,
)
from stunet.errors import ConfigError


def test_rate_follows_torchs_polynomial_schedule() -> None:
    config = OptimConfig(lr=0.02, total_steps=30, power=0.9)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.02)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=30, power=0.9)
    for step in range(30):
        assert learning_rate(config, step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_rate_rises_linearly_and_then_decays_from_its_top_to_zero() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4, total_steps=10)
    rates = [learning_rate(config, step) for step in range(11)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[10] == 0.0
    assert learning_rate(config, 11) == 0.0


@pytest.mark.parametrize("warmup", [-1, 10, 11])
def test_warmup_must_fit_into_the_run(warmup: int) -> None:
    with pytest.raises(ConfigError, match=r"optim\.warmup_steps .*optim\.total_steps 10"):
        OptimConfig(warmup_steps=warmup, total_steps=10)


def test_clipping_at_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.clip_norm 0"):
        OptimConfig(clip_norm=0)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_an_average_that_keeps_all_or_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=rf"optim\.ema_decay {decay}"):
        OptimConfig(ema_decay=decay)


def test_frozen_parameters_are_left_out() -> None:
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    optimizer = build_optimizer(net.parameters(), OptimConfig())
    assert optimizer.param_groups[0]["params"] == [net.weight]


def test_groups_keep_the_ratio_of_their_rates_along_the_schedule() -> None:
    config = OptimConfig(lr=0.5, weight_decay=0.1, warmup_steps=2, total_steps=9)
    weights = [nn.Parameter(torch.ones(1)) for _ in range(4)]
    weights[3].requires_grad_(False)
    groups = [
        ParameterGroup(weights[:1]),
        ParameterGroup(weights[1:3], 0.2, weight_decay=0.0),
        ParameterGroup(weights[3:]),
    ]
    optimizer = build_optimizer(weights, config, groups)
    assert [group["params"] for group in optimizer.param_groups] == [weights[:1], weights[1:3]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for step in range(9):
        rate = learning_rate(config, step)
        set_learning_rate(optimizer, rate)
        assert [group["lr"] for group in optimizer.param_groups] == [rate, rate * 0.2]


def test_nothing_to_train_is_refused() -> None:
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    with pytest.raises(ConfigError, match="nothing of the network is trained"):
        build_optimizer([frozen], OptimConfig())


@pytest.mark.parametrize(
    "config", [OptimConfig(), OptimConfig(momentum=0.0), OptimConfig(name="adamw")]
)
def test_state_created_in_advance_changes_no_bit(config: OptimConfig) -> None:
    ends = []
    for in_advance in (False, True):
        parameter = nn.Parameter(torch.linspace(-1, 1, 7))
        optimizer = build_optimizer([parameter], config)
        if in_advance:
            create_state(optimizer, [parameter], state_keys(config))
        for step in range(4):
            set_learning_rate(optimizer, 0.1 / (step + 1))
            parameter.grad = torch.cos(parameter.detach() * (step + 1))
            optimizer.step()
        ends.append((parameter.detach(), optimizer.state[parameter]))
    assert torch.equal(ends[0][0], ends[1][0])
    kept = {key for key, value in ends[0][1].items() if value is not None}
    assert kept == ends[1][1].keys() == {*state_keys(config)} | (kept & {"step"})
    for key in kept:
        assert torch.equal(ends[0][1][key], ends[1][1][key])
