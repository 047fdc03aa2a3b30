"""Copies of the weights that are shared out over the ranks, and their moving average.

Each rank keeps its share of every weight, whatever the ZeRO stage: nothing is sent while training,
and the shares are put together only to save or to validate. DeepSpeed's sharding is known here by
the attributes that it gives a weight; its interface is not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import nn

from stunet.engine import distributed


def decay_at(decay: float, step: int) -> float:
    """What is kept of the average after optimiser step `step`, counted from 0.

    It rises to `decay` over the first steps, so that the initial weights are soon forgotten.

    Source: `num_updates` of TensorFlow's `ExponentialMovingAverage`.

    >>> [round(decay_at(0.9, step), 2) for step in (0, 10, 1000)]
    [0.1, 0.55, 0.9]
    """
    return min(decay, (1 + step) / (10 + step))


class SharedOutWeights:
    """An fp32 copy of weights; this rank holds its share of each.

    Args:
        weights: The weights to copy, by name; the same names in the same order on every rank.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self._weights = dict(weights)
        self._shares = {
            name: _share(weight).to(torch.float32, copy=True) for name, weight in weights.items()
        }

    @torch.no_grad()
    def move_towards_weights(self, kept: float) -> None:
        """Become `kept` times what this is plus `1 - kept` times what the weights are now."""
        for name, share in self._shares.items():
            share.lerp_(_share(self._weights[name]).float(), 1 - kept)

    def whole(self, name: str) -> torch.Tensor:
        """The copy of one weight in its own shape; all ranks must ask for it."""
        weight, share = self._weights[name], self._shares[name]
        size = _size(weight)
        padded = nn.functional.pad(share, (0, _share_size(size) - share.numel()))
        shares = [torch.empty_like(padded) for _ in range(distributed.world())]
        dist.all_gather(shares, padded)
        return torch.cat(shares)[:size].view(whole_shape(weight))

    def set(self, name: str, whole: torch.Tensor) -> None:
        """Keep this rank's share of the copy of one weight."""
        self._shares[name].copy_(_cut(whole.flatten()))


def whole_shape(weight: nn.Parameter) -> tuple[int, ...]:
    """The shape of a weight also while ZeRO 3 keeps it in shards."""
    return tuple(getattr(weight, "ds_shape", weight.shape))


def _share(weight: nn.Parameter) -> torch.Tensor:
    """Our part of a flattened weight, a view; the same elements at every ZeRO stage."""
    sharded = getattr(weight, "ds_tensor", None)
    if sharded is None:
        return _cut(weight.detach().view(-1))
    size = _size(weight)
    first = distributed.rank() * _share_size(size)
    return sharded.detach()[: max(size - first, 0)]  # what follows is padding


def _cut(flat: torch.Tensor) -> torch.Tensor:
    share = _share_size(flat.numel())
    first = min(distributed.rank() * share, flat.numel())
    return flat[first : first + share]


def _size(weight: nn.Parameter) -> int:
    return int(getattr(weight, "ds_numel", weight.numel()))


def _share_size(size: int) -> int:
    return -(-size // distributed.world())
