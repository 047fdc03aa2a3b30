"""Where the windows of a volume lie, in which order they are visited, and what each voxel weighs.

Pure geometry. Running a network over the windows is the business of `sweep`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad

from stunet.errors import ConfigError
from stunet.types import Size3

Starts3 = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # per axis: z, y, x
Box = tuple[slice, slice, slice]  # z, y, x


@dataclass(frozen=True)
class WindowOptions:
    """How the sliding window moves.

    Attributes:
        step: Largest distance between neighbouring windows as a fraction of the patch.
        batch: Windows per forward pass; more is faster on a GPU and changes only rounding.
        mirror_axes: Axes (0 z, 1 y, 2 x) over whose flips logits are averaged. None by default:
            2^n times the work, and wrong for weights trained without mirroring (left and right).
    """

    step: float = 0.5
    batch: int = 1
    mirror_axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Windows:
    """The windows of one volume.

    They are visited plane by plane along the axis across which the sum of overlapping windows, as
    deep as one window, is smallest; the other axes follow in z, y, x order.

    Attributes:
        shape: The volume in voxels, after `pad_to_patch`.
        patch_size: One window.
        starts: Where windows begin along z, y and x.
    """

    shape: Size3
    patch_size: Size3
    starts: Starts3

    @property
    def order(self) -> Size3:
        """The axes as windows are visited: the one swept along comes first."""
        share = [p / s for p, s in zip(self.patch_size, self.shape, strict=True)]
        axis = share.index(min(share))
        first, second = (other for other in range(3) if other != axis)
        return axis, first, second

    def boxes(self) -> Iterator[Box]:
        """All windows in the order of visit."""
        order = self.order
        for start in product(*(self.starts[axis] for axis in order)):
            z, y, x = (start[order.index(axis)] for axis in range(3))
            depth, height, width = self.patch_size
            yield slice(z, z + depth), slice(y, y + height), slice(x, x + width)

    def weight_lines(self) -> tuple[Tensor, Tensor, Tensor]:
        """float64 lines along z, y, x whose outer product is the sum of all windows' weights.

        Windows form a grid and a window's weights factor, so their sum does too.
        """
        z, y, x = map(_weight_line, self.shape, self.patch_size, self.starts)
        return z, y, x


def plan_windows(padded_czyx: Tensor, patch_size: Size3, step: float) -> Windows:
    """Return the windows that cover a volume; see `window_starts`."""
    _, z, y, x = padded_czyx.shape
    return Windows((z, y, x), patch_size, window_starts((z, y, x), patch_size, step))


def window_starts(shape: Size3, patch_size: Size3, step: float = 0.5) -> Starts3:
    """Return where windows begin along z, y and x; their product covers the volume.

    As many windows as steps of at most `step` patches need, then spread evenly so that the first
    and the last touch the border.

    Args:
        shape: Volume in voxels, each axis at least as long as the patch.
        patch_size: Window in voxels.
        step: Largest distance between neighbours as a fraction of the patch, in (0, 1].

    Raises:
        ConfigError: `step` is not in (0, 1].

    Source:
        nnU-Net v2, `compute_steps_for_sliding_window`: the same starts.

    >>> window_starts((10, 4, 6), (4, 4, 4))
    ((0, 2, 4, 6), (0,), (0, 2))
    """
    if not 0 < step <= 1:
        raise ConfigError(f"sliding window step {step} is not in (0, 1]; use 0.5")
    assert all(s >= p for s, p in zip(shape, patch_size, strict=True)), (shape, patch_size)
    z, y, x = (
        _axis_starts(s, p, max(1.0, p * step)) for s, p in zip(shape, patch_size, strict=True)
    )
    return z, y, x


def _axis_starts(length: int, patch: int, largest_step: float) -> tuple[int, ...]:
    room = length - patch
    count = math.ceil(room / largest_step) + 1
    return tuple(round(room * i / (count - 1)) for i in range(count)) if count > 1 else (0,)


def gaussian(patch_size: Size3, sigma_scale: float = 1 / 8) -> Tensor:
    """Return the float32 (z, y, x) weight of each voxel of a window, 1 at its centre voxel n // 2.

    Args:
        patch_size: Window in voxels.
        sigma_scale: Standard deviation as a fraction of the patch. At 1/8 a corner still weighs
            e^-24, far above the smallest float32, so that no voxel is left without weight.

    Source:
        nnU-Net (Isensee et al. 2021, 10.1038/s41592-020-01008-z), importance weighting of patches.
    """
    z, y, x = (_axis_weights(n, sigma_scale) for n in patch_size)
    return (z[:, None, None] * y[:, None] * x).float()


def _axis_weights(n: int, sigma_scale: float = 1 / 8) -> Tensor:
    distance = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.exp(-0.5 * (distance / (n * sigma_scale)) ** 2)


def _weight_line(length: int, patch: int, firsts: tuple[int, ...]) -> Tensor:
    line = torch.zeros(length, dtype=torch.float64)
    for first in firsts:
        line[first : first + patch] += _axis_weights(patch)
    return line


def pad_to_patch(image_czyx: Tensor, patch_size: Size3) -> tuple[Tensor, Box]:
    """Surround the image with zeros up to the patch; also return where it then lies."""
    shape = image_czyx.shape[1:]
    missing = [max(0, p - s) for s, p in zip(shape, patch_size, strict=True)]
    z, y, x = (slice(m // 2, m // 2 + s) for m, s in zip(missing, shape, strict=True))
    if not any(missing):
        return image_czyx, (z, y, x)
    amounts = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
    return pad(image_czyx, amounts), (z, y, x)
