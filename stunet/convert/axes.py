"""From the axes of the scans a network was trained on to ours: z, y, x, increasing to S, A, R.

nnU-Net feeds scans as their files store them, so what its axes mean in the body follows from the
files of its training data, which a checkpoint does not know. Permuted axes are permuted in the
weights; reversed ones cannot (a strided convolution is not symmetric), so the network turns its
input round: `ModelConfig.mirrored`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from stunet.errors import ConfigError
from stunet.types import Size3

LETTERS = ("SI", "AP", "RL")  # of our axes z, y, x: the direction of growth, then its opposite

T = TypeVar("T")


@dataclass(frozen=True)
class Axes:
    """How a network's axes lie in ours.

    Attributes:
        source: For each of our axes z, y, x the axis of the network.
        mirrored: Those of our axes along which the network saw reversed images.
    """

    source: Size3
    mirrored: tuple[int, ...]

    def of_triple(self, values: tuple[T, T, T]) -> tuple[T, T, T]:
        """Three values of the network's axes in the order of ours."""
        z, y, x = (values[axis] for axis in self.source)
        return z, y, x

    def of_weight(self, weight: Tensor) -> Tensor:
        """A convolution's weight, (O, I, d, h, w), along our axes; others as they are."""
        if weight.ndim != 5 or self.source == (0, 1, 2):
            return weight
        return weight.permute(0, 1, *(2 + axis for axis in self.source)).contiguous()


def axes_of(orientation: str, transpose: Size3) -> Axes:
    """Return how a network's axes lie.

    Args:
        orientation: Three letters as `stunet data show` prints them for the training scans: where
            the stored axes i, j, k lead in the body, e.g. `RAS` or `LPS`.
        transpose: nnU-Net's `transpose_forward`: the axis of the array (k, j, i) that each axis of
            the network is.

    Raises:
        ConfigError: The letters do not name three axes of the body.

    >>> axes_of("LPS", (0, 1, 2))
    Axes(source=(0, 1, 2), mirrored=(1, 2))
    """
    letters = orientation.upper()
    along = [next((a for a in range(3) if letter in LETTERS[a]), -1) for letter in letters]
    if sorted(along) != [0, 1, 2]:
        raise ConfigError(
            f"--orientation {orientation}: give three letters, one each of R or L, A or P, S or I: "
            "where the stored axes of the training scans lead, as 'stunet data show' prints it"
        )
    if sorted(transpose) != [0, 1, 2]:
        raise ConfigError(f"transpose_forward {list(transpose)}: is no order of three axes")
    index_axes = [2 - axis for axis in transpose]  # array (k, j, i) to index (i, j, k)
    ours = [along[index] for index in index_axes]
    reverse = {along[index] for index in index_axes if letters[index] in "ILP"}
    z, y, x = (ours.index(axis) for axis in range(3))
    return Axes((z, y, x), tuple(sorted(reverse)))
