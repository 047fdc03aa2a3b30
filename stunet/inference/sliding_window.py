"""Dense logits of a volume from overlapping windows: tensors in, tensors out.

Not for geometry, files or labels: resampling and normalisation come before, export comes after
(`stunet.inference.predictor`). The whole (K, Z, Y, X) sum is held in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, product

import torch
from torch import Tensor

from stunet.errors import ConfigError
from stunet.types import Size3

Starts3 = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # per axis: z, y, x


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


@torch.no_grad()
def sliding_window_logits(
    model: Callable[[Tensor], Tensor],
    image_czyx: Tensor,
    patch_size: Size3,
    step: float = 0.5,
    batch: int = 1,
    mirror_axes: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the Gaussian-weighted mean of the logits of overlapping windows.

    Args:
        model: Maps (B, C, z, y, x) to logits (B, K, z, y, x); in evaluation mode, on `device`.
        image_czyx: Network input, already normalised. Where it is smaller than the patch it is
            surrounded by zeros, evenly on both sides, and the result is cropped back.
        patch_size: Window in voxels, z y x.
        step: Largest distance between neighbouring windows as a fraction of the patch.
        batch: Windows per forward pass.
        mirror_axes: Spatial axes (0 z, 1 y, 2 x) over whose flips the logits are averaged too.
        device: Where the model lives. The sum is kept on the device of the image.

    Returns:
        float32 (K, Z, Y, X) logits on the device of the image.
    """
    padded, inner = _pad_to_patch(image_czyx, patch_size)
    z, y, x = padded.shape[1:]
    starts = window_starts((z, y, x), patch_size, step)
    boxes = [
        tuple(slice(a, a + n) for a, n in zip(start, patch_size, strict=True))
        for start in product(*starts)
    ]
    weight = gaussian(patch_size).to(device)
    total: Tensor | None = None
    for first in range(0, len(boxes), batch):
        group = boxes[first : first + batch]
        windows = torch.stack([padded[(slice(None), *box)] for box in group]).to(device)
        logits_bkdhw = _mirrored(model, windows, mirror_axes).mul_(weight)
        if total is None:
            total = padded.new_zeros((logits_bkdhw.shape[1], z, y, x), dtype=torch.float32)
        for box, logits in zip(group, logits_bkdhw, strict=True):
            total[(slice(None), *box)] += logits.to(total.device)
    assert total is not None
    total /= _weight_sum((z, y, x), patch_size, starts).to(total.device)
    return total[(slice(None), *inner)].contiguous()


def _mirrored(
    model: Callable[[Tensor], Tensor], windows_bcdhw: Tensor, mirror_axes: Sequence[int]
) -> Tensor:
    """Mean float32 logits over all flips of the given axes, each flipped back."""
    subsets = [c for n in range(len(mirror_axes) + 1) for c in combinations(mirror_axes, n)]
    total = torch.zeros(())
    for subset in subsets:
        dims = [axis + 2 for axis in subset]
        logits = model(windows_bcdhw.flip(dims)).float().flip(dims)
        total = total.to(logits.device) + logits
    return total.div_(len(subsets))


def _weight_sum(shape: Size3, patch_size: Size3, starts: Starts3) -> Tensor:
    """Sum of all windows' weights; windows form a grid and weights factor, so axis by axis."""
    axes = []
    for length, patch, firsts in zip(shape, patch_size, starts, strict=True):
        line = torch.zeros(length, dtype=torch.float64)
        for first in firsts:
            line[first : first + patch] += _axis_weights(patch)
        axes.append(line)
    z, y, x = axes
    return (z[:, None, None] * y[:, None] * x).float()


def _pad_to_patch(image_czyx: Tensor, patch_size: Size3) -> tuple[Tensor, list[slice]]:
    """Surround the image with zeros up to the patch; also return where it then lies (z, y, x)."""
    shape = image_czyx.shape[1:]
    missing = [max(0, p - s) for s, p in zip(shape, patch_size, strict=True)]
    inner = [slice(m // 2, m // 2 + s) for m, s in zip(missing, shape, strict=True)]
    if not any(missing):
        return image_czyx, inner
    amounts = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
    return torch.nn.functional.pad(image_czyx, amounts), inner
