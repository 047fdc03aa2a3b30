"""Which patch has number i: every choice is a pure function of (seed, i).

Ranks, workers, kills and resumes only decide who computes a number and when, never what comes out:
the state to save is the step. The functions here take plain numbers; `stunet.data.patches` asks
them for each patch of a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from stunet.errors import ConfigError
from stunet.types import Size3

_WORD = 2**64
_ROUNDS = 12  # for thousands of cases 6 look random; a handful of cases needs 12 for even orders


class Purpose(IntEnum):
    """What a random number is for: a stream for each, so that no purpose shifts another.

    The values are part of the format: a new purpose takes the next number.
    """

    CASE = 0
    FOREGROUND = 1
    LABEL = 2
    POSITION = 3
    SPATIAL = 4
    INTENSITY = 5
    NOISE = 6
    DATASET = 7


@dataclass(frozen=True)
class SamplerConfig:
    """How patches are placed.

    Attributes:
        foreground: Chance that a patch is centred on a voxel of a label drawn evenly from those in
            its case. Default: nnU-Net's oversampling, also used for STU-Net.
        patches_per_volume: Patches that are cut while a volume is visited. 1: every patch from
            another volume. Where whole volumes are decoded (tars), 8 and more save most of it.
        volumes_at_once: Volumes that are visited at the same time over all ranks, taking turns
            from patch to patch. Only where `patches_per_volume` is above 1 does it change anything
            for a store; for tars make it a multiple of the global batch.
    """

    foreground: float = 0.33
    patches_per_volume: int = 1
    volumes_at_once: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.foreground <= 1:
            raise ConfigError(f"sampler.foreground={self.foreground}: give a value from 0 to 1")
        for name in ("patches_per_volume", "volumes_at_once"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sampler.{name}={getattr(self, name)}: give at least 1")


def stream(seed: int, sample: int, purpose: Purpose, dataset: int = 0) -> np.random.Generator:
    """Return the random numbers of one patch for one purpose.

    Philox turns (key, counter) into random words; the seed is the key, patch and purpose are upper
    words of the counter, so that streams never overlap. Equal to `Philox(key=seed, counter=...)`.
    `dataset` is 0 but for what the data sets of a mixture draw each for itself.
    """
    counter = [0, dataset, int(purpose), sample]
    philox = np.random.Philox(_Key(seed), counter=counter)  # type: ignore[arg-type]  # stub too strict
    return np.random.Generator(philox)


class _Key(ISeedSequence):
    """A key as it is: given as `key=`, numpy first asks the system for entropy (9 us, not 3)."""

    def __init__(self, seed: int) -> None:
        self._words = np.array([seed, 0], np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> np.ndarray:
        return self._words


def step_samples(step: int, global_batch: int, rank: int = 0, world: int = 1) -> range:
    """Return the numbers of the patches that a rank computes in a step.

    >>> list(step_samples(step=10, global_batch=4, rank=1, world=2))
    [42, 43]
    """
    share = global_batch // world
    first = step * global_batch + rank * share
    return range(first, first + share)


def visit_of(sample: int, config: SamplerConfig) -> int:
    """Return the number of the visit to a volume in which a patch is cut.

    Patches go round `volumes_at_once` lanes. A lane stays with a volume for `patches_per_volume`
    turns, and then takes the visit `volumes_at_once` numbers later. Lanes change one after the
    other, so that volumes are needed at an even pace; the first visit of most is cut short for it.

    >>> config = SamplerConfig(patches_per_volume=2, volumes_at_once=2)
    >>> [visit_of(sample, config) for sample in range(10)]
    [0, 1, 0, 3, 2, 3, 2, 5, 4, 5]
    """
    each, lanes = config.patches_per_volume, config.volumes_at_once
    turn, lane = divmod(sample, lanes)
    return (turn + lane * each // lanes) // each * lanes + lane


def case_of(seed: int, visit: int, cases: int, dataset: int = 0) -> int:
    """Return which of `cases` a visit goes to: each exactly once in every `cases` visits.

    Data sets of one run, told apart by `dataset`, get orders of their own.
    """
    return permuted(seed, visit, cases, Purpose.CASE, dataset)


def permuted(seed: int, number: int, size: int, purpose: Purpose, dataset: int = 0) -> int:
    """Return the place of a number among `size`: every block of `size` numbers takes each once.

    Every block has an order of its own, from a Feistel network keyed by (seed, block) that is
    applied until the result is below `size` (cycle walking). Needs no memory of the order.

    Source: J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002.
    """
    block, position = divmod(number, size)
    keys = _round_keys(seed, block, purpose, dataset)
    bits = (size - 1).bit_length()
    while True:
        position = _feistel(position, bits, keys)
        if position < size:
            return position


def foreground_label(
    seed: int, sample: int, labels: Sequence[int], config: SamplerConfig
) -> int | None:
    """Return the label that a patch is centred on, or None for a patch placed anywhere.

    Args:
        seed: Of the run.
        sample: Number of the patch.
        labels: The labels to choose from, in a fixed order; none of them: the patch goes anywhere.
        config: Holds the chance of a foreground patch.
    """
    if not labels or stream(seed, sample, Purpose.FOREGROUND).random() >= config.foreground:
        return None
    return labels[int(stream(seed, sample, Purpose.LABEL).integers(len(labels)))]


def patch_start(
    seed: int, sample: int, shape_zyx: Size3, patch_size: Size3, around: np.ndarray | None
) -> Size3:
    """Return the first voxel of a patch, z y x.

    A patch stays inside the volume; where it is larger, the volume lies in its middle.

    Args:
        seed: Of the run.
        sample: Number of the patch.
        shape_zyx: The volume in voxels.
        patch_size: The patch in voxels.
        around: (n, 3) voxels, one of which becomes the centre as far as the volume's borders
            allow; None: any position is equally likely.
    """
    generator = stream(seed, sample, Purpose.POSITION)
    centre = None if around is None else around[generator.integers(len(around))].tolist()
    start = []
    for axis, (side, patch) in enumerate(zip(shape_zyx, patch_size, strict=True)):
        if patch >= side:
            start.append(-((patch - side) // 2))
        elif centre is None:
            start.append(int(generator.integers(side - patch + 1)))
        else:
            start.append(min(max(centre[axis] - patch // 2, 0), side - patch))
    return start[0], start[1], start[2]


@lru_cache(maxsize=64)  # neighbouring patches share a block, in each data set of a mixture
def _round_keys(seed: int, block: int, purpose: Purpose, dataset: int) -> tuple[int, ...]:
    generator = stream(seed, block, purpose, dataset)
    words = generator.integers(_WORD - 1, size=_ROUNDS, dtype=np.uint64)
    return tuple(words.tolist())


def _feistel(number: int, bits: int, keys: Sequence[int]) -> int:
    """Permute the numbers of `bits` bits: each half is changed in turn by a hash of the other."""
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << bits - low_bits) - 1
    high, low = number >> low_bits, number & low_mask
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        high ^= _mix(low ^ even) & high_mask
        low ^= _mix(high ^ odd) & low_mask
    return high << low_bits | low


def _mix(word: int) -> int:
    """Scatter 64 bits: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB % _WORD
    return word ^ word >> 31
