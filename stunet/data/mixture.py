"""Several data sets in one stream of patches, by weight.

The visits of a run are shared out by a pattern that repeats: how many visits each data set had
before follows from the visit's number alone, so that within each data set every case is still
visited once before any is visited again. Not for making label spaces agree: that is preparation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from stunet.data.patches import Patch, PatchDraw, PatchSource, RawPatch, Room
from stunet.data.sampler import Purpose, SamplerConfig, permuted, visit_of
from stunet.errors import ConfigError

LONGEST_PATTERN = 1000  # visits; weights are kept to a thousandth of their sum


def pattern_counts(weights: Sequence[float]) -> tuple[int, ...]:
    """Return how often each data set comes in the repeating pattern.

    The shortest pattern that has the weights exactly, else one of `LONGEST_PATTERN` visits that
    gives the largest remainders their rounded share.

    >>> pattern_counts([2, 1]), pattern_counts([0.7, 0.3]), pattern_counts([1, 1, 1])
    ((2, 1), (7, 3), (1, 1, 1))
    >>> sum(pattern_counts([2**0.5, 1, 0.1]))
    1000

    Raises:
        ConfigError: A weight is not above 0, or too small to get a visit.
    """
    total = sum(weights)
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise ConfigError(f"mixture: weight {weight} is not a number above 0")
    for length in range(1, LONGEST_PATTERN + 1):
        exact = [weight / total * length for weight in weights]
        counts = [round(share) for share in exact]
        if all(abs(a - b) < 1e-9 * length for a, b in zip(exact, counts, strict=True)):
            return tuple(counts)
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(counts)), key=lambda d: counts[d] - exact[d])
    for dataset in by_remainder[: LONGEST_PATTERN - sum(counts)]:
        counts[dataset] += 1
    if not all(counts):
        weight = weights[counts.index(0)]
        raise ConfigError(
            f"mixture: weight {weight} is below a thousandth of the sum {total:g}; give more of it"
            " or leave its store out"
        )
    return tuple(counts)


def dataset_of(seed: int, visit: int, counts: Sequence[int]) -> tuple[int, int]:
    """Return the data set of a visit, and which of that data set's own visits it is.

    In every `sum(counts)` visits each data set has exactly its count, in an order drawn anew; its
    own numbers 0, 1, 2, ... each occur once.
    """
    length = sum(counts)
    place = permuted(seed, visit, length, Purpose.DATASET)
    ends = list(accumulate(counts))
    dataset = bisect_right(ends, place)
    from_end = ends[dataset] - place  # 1 for the last of the data set's places
    return dataset, (visit // length + 1) * counts[dataset] - from_end


class MixedSource:
    """The patches of several data sets by number: `source[i]` depends on the seed and i alone.

    Args:
        parts: The patches of each data set, numbered in this order, all with the same seed.
        weights: Share of each in the patches, up to a factor.
        seed: Of the run.
        sampler: Placement of patches.

    Raises:
        ConfigError: A weight is impossible.
    """

    def __init__(
        self,
        parts: Sequence[PatchSource],
        weights: Sequence[float],
        seed: int,
        sampler: SamplerConfig,
    ) -> None:
        self._parts = tuple(parts)
        self._counts = pattern_counts(weights)
        self._seed = seed
        self._sampler = sampler

    def __getitem__(self, sample: int) -> Patch:
        """Read and augment patch number `sample`.

        Raises:
            DataError: Its voxels are missing or damaged.
        """
        return self.raw(sample).augmented()

    def raw(self, sample: int, room: Room | None = None) -> RawPatch:
        """Read patch number `sample`, into `room` if it has that size.

        Raises:
            DataError: Its voxels are missing or damaged.
        """
        part, visit = self._place(sample)
        return part.raw(sample, room, visit)

    def draw(self, sample: int) -> PatchDraw:
        """Make all draws of a patch without reading a voxel."""
        part, visit = self._place(sample)
        return part.draw(sample, visit)

    def describe(self, sample: int) -> dict[str, Any]:
        """Return the draws of a patch as plain values that JSON can hold."""
        return asdict(self.draw(sample))

    def locate(self, sample: int) -> str:
        """Say where a patch comes from, for messages."""
        part, visit = self._place(sample)
        return part.place(visit)

    def case(self, visit: int) -> tuple[int, int]:
        """Return the number of the data set of a visit, and its case there."""
        dataset, own = dataset_of(self._seed, visit, self._counts)
        return dataset, self._parts[dataset].case(own)

    def _place(self, sample: int) -> tuple[PatchSource, int]:
        dataset, own = dataset_of(self._seed, visit_of(sample, self._sampler), self._counts)
        return self._parts[dataset], own
