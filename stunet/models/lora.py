"""Low-rank adaptation of convolutions: few trained numbers beside frozen weights.

A convolution computes with `weight + up @ down / sqrt(rank)`, where `down` is (rank, inputs of a
voxel) and `up` is (outputs, rank). Merged, it is the plain convolution that it was, with the very
weights that it trained with.

Source: Hu et al. 2021, arXiv:2106.09685; the scale is that of Kalajdzievski 2023, arXiv:2312.03732,
with which the learning rate needs not follow the rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

DOWN, UP = "lora_down", "lora_up"


class LoraConv3d(nn.Conv3d):
    """A convolution with a frozen weight and a trained low-rank change of it, zero at first."""

    def __init__(self, plain: nn.Conv3d, rank: int, generator: torch.Generator) -> None:
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size,  # type: ignore[arg-type]  # torch has made them triples
            plain.stride,  # type: ignore[arg-type]
            plain.padding,  # type: ignore[arg-type]
            bias=plain.bias is not None,
            device="meta",
        )
        self.weight, self.bias = plain.weight, plain.bias
        inputs = plain.weight[0].numel()
        down = torch.empty(rank, inputs).uniform_(-1, 1, generator=generator) / math.sqrt(inputs)
        self.lora_down = nn.Parameter(down)
        self.lora_up = nn.Parameter(torch.zeros(plain.out_channels, rank))

    def forward(self, x_bcdhw: Tensor) -> Tensor:
        """As the convolution that it replaces."""
        weight = merged(self.weight, self.lora_down, self.lora_up)
        return self._conv_forward(x_bcdhw, weight, self.bias)


def merged(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """The weight that a convolution computes with."""
    return weight + (up @ down / math.sqrt(len(down))).view_as(weight)


def add_lora(model: nn.Module, rank: int, seed: int, where: Callable[[str], bool]) -> list[str]:
    """Replace convolutions of a model in place and freeze them; return their names.

    Args:
        model: Its 3D convolutions are looked through, transposed ones not.
        rank: Of the change; below 1 there is none to train.
        seed: Of the initial values.
        where: Tells of a convolution's name whether it is replaced.
    """
    generator = torch.Generator().manual_seed(seed)
    names = [n for n, m in model.named_modules() if type(m) is nn.Conv3d and where(n)]
    for name in names:
        plain = model.get_submodule(name)
        assert isinstance(plain, nn.Conv3d)
        plain.requires_grad_(False)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LoraConv3d(plain, rank, generator))
    return names


def merge_lora(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the plain network, from one with or without low-rank changes."""
    plain = {name: t for name, t in tensors.items() if name.rpartition(".")[2] not in (DOWN, UP)}
    for name in tensors:
        stem, _, last = name.rpartition(".")
        if last == DOWN:
            weight = f"{stem}.weight"
            plain[weight] = merged(tensors[weight], tensors[name], tensors[f"{stem}.{UP}"])
    return plain
