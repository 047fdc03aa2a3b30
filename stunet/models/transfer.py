"""Weights of one network as the start of another: other labels, other image channels.

Both are the same network otherwise, and whatever else differs is an error: nothing is loaded by
halves in silence. Every tensor is accounted for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stunet.errors import ConfigError
from stunet.transforms.channel_match import matched_channels

What = Literal["loaded", "inflated", "rows matched", "re-initialised", "skipped"]
FROM_SOURCE = ("loaded", "inflated", "rows matched")


@dataclass(frozen=True)
class TensorRecord:
    """What became of one tensor.

    Attributes:
        name: In the state dict.
        what: `skipped` ones are the source's and not used.
        shape: In the new network; the source's where it has none there.
        why: What was done, or why not more.
    """

    name: str
    what: What
    shape: tuple[int, ...]
    why: str = ""


@dataclass(frozen=True)
class Change:
    """How the new network differs from the source.

    Attributes:
        entries: Weights that the image channels go into: their second axis counts them.
        heads: Weights that give the outputs: their first axis counts them.
        channels: For each channel of the source what it is fed with: the weight of each channel of
            the new network, which sum to 1. None: the channels are the same.
        rows: For each output of the new network the outputs of the source that it starts from, as
            their mean; empty: it starts anew. None: the outputs are the same.
    """

    entries: frozenset[str]
    heads: frozenset[str]
    channels: tuple[tuple[float, ...], ...] | None = None
    rows: tuple[tuple[int, ...], ...] | None = None


def feed(source: Sequence[str], target: Sequence[str]) -> tuple[tuple[float, ...], ...] | None:
    """What each channel of the source is fed with, as `Change.channels` wants it.

    A channel of the target feeds the one that it is (`matched_channels`), else the one at its
    place, counted round; those that share one are averaged. A channel of the source that nothing
    feeds gets the one at its place, counted round. So an image that is the same in all channels
    gives the output that the source gives for it.

    >>> feed(["CT"], ["CT", "PET"])
    ((0.5, 0.5),)
    >>> feed(["T1", "T2", "FLAIR"], ["T2", "T1"])
    ((0.0, 1.0), (1.0, 0.0), (1.0, 0.0))
    """
    matched = matched_channels(source, target)
    if matched == tuple(range(len(source))) and len(source) == len(target):
        return None
    goes_to = [at % len(source) if to is None else to for at, to in enumerate(matched)]
    rows = []
    for number in range(len(source)):
        feeders = [at for at, to in enumerate(goes_to) if to == number]
        feeders = feeders or [number % len(target)]
        rows.append(tuple(feeders.count(at) / len(feeders) for at in range(len(target))))
    return tuple(rows)


def transfer_weights(
    source: Mapping[str, Tensor], fresh: Mapping[str, Tensor], change: Change
) -> tuple[dict[str, Tensor], tuple[TensorRecord, ...]]:
    """The initial weights of the new network, and what became of every tensor.

    Args:
        source: State dict of the source.
        fresh: State dict of the new network with random weights; kept where nothing fits.
        change: How they differ.

    Raises:
        ConfigError: A tensor differs in another way, or only one of the two has it.
    """
    weights, records = {}, []
    for name, tensor in fresh.items():
        if name not in source:
            raise ConfigError(
                f"weights: the source has no {name}; give the strides and the size of the source"
            )
        weights[name], record = _start(name, source[name], tensor, change)
        records.append(record)
        if record.what == "re-initialised":
            shape = tuple(source[name].shape)
            records.append(TensorRecord(name, "skipped", shape, "the source's; " + record.why))
    for name in source:
        if name not in fresh:
            raise ConfigError(
                f"weights: {name} of the source has no place in the network; give the strides and"
                " the size of the source"
            )
    return weights, tuple(records)


def summarise(records: Sequence[TensorRecord]) -> list[str]:
    """One line per kind: how many tensors and numbers, and the names where they are few."""
    lines = []
    for what, count in Counter(record.what for record in records).items():
        of_kind = [record for record in records if record.what == what]
        numbers = sum(torch.Size(record.shape).numel() for record in of_kind)
        reasons = list(dict.fromkeys(record.why for record in of_kind if record.why))
        why = f": {'; '.join(reasons)}" if reasons else ""
        lines.append(f"{what}: {count} tensors, {numbers:,} numbers{why}")
    return lines


def _start(name: str, source: Tensor, fresh: Tensor, change: Change) -> tuple[Tensor, TensorRecord]:
    shape, started = tuple(fresh.shape), source.clone()
    what: What = "loaded"
    why = ""
    if name in change.entries and change.channels is not None:
        mix = torch.tensor(change.channels, dtype=source.dtype, device=source.device)
        started = torch.einsum("os...,st->ot...", source, mix)
        what, why = "inflated", f"{len(mix)} to {len(mix[0])} image channels"
    elif name in change.heads and change.rows is not None:
        started, what, why = _rows(source, fresh, change.rows)
    if tuple(started.shape) != shape:
        raise ConfigError(
            f"weights: {name} is {tuple(source.shape)} in the source and {shape} in the network;"
            " strides, kernels and size must be those of the source"
        )
    return started, TensorRecord(name, what, shape, why)


def _rows(
    source: Tensor, fresh: Tensor, rows: tuple[tuple[int, ...], ...]
) -> tuple[Tensor, What, str]:
    """A head whose outputs start from the mean of outputs of the source, or anew."""
    if source.shape[1:] != fresh.shape[1:]:
        return source, "loaded", ""  # refused by its shape
    started = fresh.clone()
    for row, sources in enumerate(rows):
        if sources:
            started[row] = source[list(sources)].mean(dim=0)
    found = sum(map(bool, rows))
    if not found:
        return started, "re-initialised", "no output of the source is one of the network"
    anew = len(rows) - found
    why = f"{found} outputs from the source" + (f", {anew} anew" if anew else "")
    return started, "rows matched", why
