"""How a network is computed, never what: switches that trade time for memory.

They are set on a built network and do not travel with its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class SpeedConfig:
    """Ways to compute the same network.

    Attributes:
        fused_norm: On a GPU one Triton kernel for normalisation, sum and activation; elsewhere it
            changes nothing. Off: PyTorch's own operations.
        recompute: `block`: keep one feature map per residual block and compute the rest again in
            the backward pass, about a third more work for a fraction of the memory; `none`: keep
            all; `auto`: `none` where the device's free memory allows it.
    """

    fused_norm: bool = True
    recompute: Literal["none", "block", "auto"] = "none"


def set_speed(model: nn.Module, config: SpeedConfig) -> None:
    """Switch all residual blocks of a network; `auto` has been decided before."""
    from stunet.models.blocks import ResidualBlock

    assert config.recompute != "auto", "see stunet.training.recompute"
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            module.fused_norm = config.fused_norm
            module.recompute = config.recompute == "block"
