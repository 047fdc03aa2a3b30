"""Which image channel of one data set is which of another, and its normalisation if it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stunet.types import Channel


def matched_channels(source: Sequence[str], target: Sequence[str]) -> tuple[int | None, ...]:
    """The channel of the source that each channel of the target is: by name, then by position.

    >>> matched_channels(["T1", "T2"], ["T2", "T1"])
    (1, 0)
    >>> matched_channels(["image"], ["CT", "PET"])
    (0, None)
    """
    spelled = [name.lower() for name in source]
    named = [spelled.index(name.lower()) if name.lower() in spelled else None for name in target]
    free = set(range(len(source))) - set(named)
    return tuple(
        number if number is not None else place if place in free else None
        for place, number in enumerate(named)
    )


def normalised_as(channels: Sequence[Channel], source: Sequence[Channel]) -> tuple[Channel, ...]:
    """Channels with the normalisation of the source under their own names; else as they are."""
    matched = matched_channels([c.name for c in source], [c.name for c in channels])
    return tuple(
        channel if number is None else replace(source[number], name=channel.name)
        for channel, number in zip(channels, matched, strict=True)
    )
