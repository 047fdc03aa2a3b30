"""Whether blocks are recomputed where a recipe leaves it open: `speed.recompute: auto`."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Literal

import torch

from stunet.engine import distributed
from stunet.engine.cgroups import available_memory
from stunet.models.cost import recompute_to_fit, step_memory
from stunet.models.spec import ModelConfig
from stunet.models.speed import SpeedConfig
from stunet.training.estimate import USABLE
from stunet.training.memory import computing, sharing
from stunet.training.recipe import TrainingConfig
from stunet.types import Size3


def decided_speed(config: TrainingConfig, network: ModelConfig, patch_zyx: Size3) -> SpeedConfig:
    """The recipe's `speed` with `recompute: auto` decided; the same on every rank, all must ask.

    To be asked before the network is on its device.

    Raises:
        ConfigError: As `stunet.models.cost.step_memory`.
    """
    if config.speed.recompute != "auto":
        return config.speed
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    free = int(min(row[0] for row in distributed.gather_numbers([_free_bytes(device)])))
    how, shared = computing(config, device), sharing(config, distributed.world())
    choice = recompute_to_fit(network, patch_zyx, how, shared, round(USABLE * free))
    if distributed.is_main():
        kept, recomputed = (
            step_memory(network, patch_zyx, replace(how, recompute=each), shared).peak / 2**30
            for each in ("none", "block")
        )
        print(
            f"speed.recompute=auto: {choice}; a step needs about {kept:.2f} GiB with all feature "
            f"maps kept and {recomputed:.2f} GiB with blocks recomputed, {free / 2**30:.2f} GiB are"
            " free for each rank",
            flush=True,
        )
    return replace(config.speed, recompute=choice)


def _free_bytes(device: Literal["cpu", "cuda"]) -> float:
    """Of this rank's GPU, or its share of this machine's memory."""
    hosts = distributed.gather_text(socket.gethostname())
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return available_memory()[0] / hosts.count(socket.gethostname())
