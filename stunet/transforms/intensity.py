"""Intensity augmentation: noise, blur, brightness, contrast, low resolution and gamma.

Each operation is a pure function of an image and the numbers drawn for it; `apply_intensity` chains
those of an `IntensityDraw`. Values are network input, already normalised. Nothing here draws
numbers: `stunet.transforms.augment` does.

Source: the augmentation of nnU-Net v1, which STU-Net (arXiv 2304.06716) was pre-trained with, as in
`batchgenerators`: order of the operations, edge handling and interpolation orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache

import numpy as np
import scipy.ndimage
import torch

_BLUR_REACH = 3.0  # kernel half-width in sigmas: 5 to 7 taps for sigma 0.5 to 1
_TINY = 1e-7  # keeps a constant image finite; nnU-Net's epsilon


@dataclass(frozen=True)
class ChannelDraw:
    """What one channel goes through, in this order; None leaves a step out.

    Attributes:
        blur_sigma: Standard deviation of the Gaussian in voxels.
        brightness: Factor on all values.
        contrast: Factor on the distance from the mean.
        low_res_zoom: Side of the intermediate grid over side of the patch, at most 1.
        inverted_gamma: Exponent on the negated image, scaled to 0..1.
        gamma: Exponent on the image, scaled to 0..1.
    """

    blur_sigma: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    low_res_zoom: float | None = None
    inverted_gamma: float | None = None
    gamma: float | None = None


@dataclass(frozen=True)
class IntensityDraw:
    """What one patch goes through; plain numbers, so that it can be stored and replayed.

    Attributes:
        noise_std: Standard deviation of the white noise added to all channels, or None.
        noise_seed: Seed of that noise.
        low_res_axes: The axes (0 z, 1 y, 2 x) that `low_res_zoom` acts on.
        channels: One record per channel.
    """

    noise_std: float | None
    noise_seed: int
    low_res_axes: tuple[int, ...]
    channels: tuple[ChannelDraw, ...]


def apply_intensity(
    image_cdhw: torch.Tensor, draw: IntensityDraw, noise_cdhw: torch.Tensor | None = None
) -> torch.Tensor:
    """Run all drawn operations; never changes its input, and returns it if nothing was drawn.

    Args:
        image_cdhw: float32 (C, D, H, W), on any device.
        draw: The operations.
        noise_cdhw: What `noise_of` gives for `draw`, if somebody else made it; else it is made
            here.
    """
    if draw.noise_std is not None:
        noise = noise_of(draw, image_cdhw.shape) if noise_cdhw is None else noise_cdhw
        assert noise is not None
        image_cdhw = image_cdhw + noise.to(image_cdhw.device)
    if all(value is None for channel in draw.channels for value in astuple(channel)):
        return image_cdhw
    changed = [
        _apply_channel(image_dhw, channel, draw.low_res_axes)
        for image_dhw, channel in zip(image_cdhw, draw.channels, strict=True)
    ]
    return torch.stack(changed)


def noise_of(draw: IntensityDraw, shape: Sequence[int]) -> torch.Tensor | None:
    """Gaussian white noise from a generator of its own; None where no noise was drawn.

    Always made on a CPU: the generator of a GPU would give other numbers.
    """
    if draw.noise_std is None:
        return None
    generator = torch.Generator().manual_seed(draw.noise_seed)
    return torch.randn(tuple(shape), generator=generator).mul_(draw.noise_std)


def gaussian_blur(image_dhw: torch.Tensor, sigma: float) -> torch.Tensor:
    """Convolve with a Gaussian of `sigma` voxels, cut at 3 sigma; edges are mirrored.

    Equals `scipy.ndimage.gaussian_filter(truncate=3)`.
    """
    radius = int(_BLUR_REACH * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    kernel /= kernel[0] + 2 * kernel[1:].sum()
    for axis in range(3):
        image_dhw = _convolve(image_dhw, kernel.tolist(), axis)
    return image_dhw


def scale_brightness(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply all values."""
    return image * factor


def scale_contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply the distance from the mean, then clip to the range that the image had."""
    low, high = torch.aminmax(image)
    mean = image.mean()
    return (image - mean).mul_(factor).add_(mean).clamp_(low, high)


def simulate_low_resolution(
    image_dhw: torch.Tensor, zoom: float, axes: tuple[int, ...]
) -> torch.Tensor:
    """Take the nearest voxels of a coarser grid and interpolate them back with cubic splines.

    Args:
        image_dhw: float32 (D, H, W).
        zoom: Side of the coarse grid over side of the image, in (0, 1].
        axes: The axes to coarsen.

    Returns:
        float32 (D, H, W), within the range of the coarse image as splines overshoot. Equal to
        `scipy.ndimage.zoom(grid_mode=True, mode="nearest")` with order 0, then with order 3.
    """
    coarse = image_dhw
    for axis in axes:
        side = image_dhw.shape[axis]
        coarse_side = max(1, round(side * zoom))
        centres = (torch.arange(coarse_side, dtype=torch.float64) + 0.5) * (side / coarse_side)
        coarse = coarse.index_select(axis, centres.long().to(image_dhw.device))
    low, high = torch.aminmax(coarse)
    fine = coarse
    for axis in axes:
        spline = torch.from_numpy(_spline_matrix(coarse.shape[axis], image_dhw.shape[axis]))
        fine = torch.tensordot(fine, spline.to(fine), ([axis], [1])).movedim(-1, axis)
    return fine.clamp(low, high).contiguous()


def apply_gamma(image: torch.Tensor, gamma: float, *, invert: bool = False) -> torch.Tensor:
    """Raise the image, scaled to 0..1, to a power; its mean and standard deviation are kept.

    Args:
        image: float32, any shape.
        gamma: The exponent: above 1 darkens, below 1 brightens the middle of the range.
        invert: Work on the negated image, so that bright values are stretched instead of dark ones.
    """
    if invert:
        return -apply_gamma(-image, gamma)
    low, high = torch.aminmax(image)
    span = high - low
    curved = ((image - low) / (span + _TINY)).pow_(gamma).mul_(span).add_(low)
    std_before, std_after = image.std(correction=0), curved.std(correction=0)
    curved -= curved.mean()
    return curved.mul_(std_before / std_after.clamp_min(_TINY)).add_(image.mean())


def _apply_channel(
    image_dhw: torch.Tensor, draw: ChannelDraw, low_res_axes: tuple[int, ...]
) -> torch.Tensor:
    if draw.blur_sigma is not None:
        image_dhw = gaussian_blur(image_dhw, draw.blur_sigma)
    if draw.brightness is not None:
        image_dhw = scale_brightness(image_dhw, draw.brightness)
    if draw.contrast is not None:
        image_dhw = scale_contrast(image_dhw, draw.contrast)
    if draw.low_res_zoom is not None:
        image_dhw = simulate_low_resolution(image_dhw, draw.low_res_zoom, low_res_axes)
    if draw.inverted_gamma is not None:
        image_dhw = apply_gamma(image_dhw, draw.inverted_gamma, invert=True)
    if draw.gamma is not None:
        image_dhw = apply_gamma(image_dhw, draw.gamma)
    return image_dhw


def _convolve(image: torch.Tensor, half_kernel: list[float], axis: int) -> torch.Tensor:
    """Convolve one axis with a symmetric kernel given from its centre outwards."""
    side, radius = image.shape[axis], len(half_kernel) - 1
    index = torch.arange(-radius, side + radius, device=image.device) % (2 * side)
    mirrored = torch.minimum(index, 2 * side - 1 - index)  # ... 1 0 | 0 1 2 ...
    padded = image.index_select(axis, mirrored)
    result = padded.narrow(axis, radius, side) * half_kernel[0]
    for k in range(1, radius + 1):
        pair = padded.narrow(axis, radius - k, side) + padded.narrow(axis, radius + k, side)
        result.add_(pair, alpha=half_kernel[k])
    return result


@lru_cache(maxsize=256)  # a patch side and its coarse sides: at most 64 KB each
def _spline_matrix(coarse_side: int, fine_side: int) -> np.ndarray:
    """Return the (fine, coarse) matrix of cubic spline interpolation: a linear map, so its columns
    are the interpolated unit vectors.
    """
    columns = [
        scipy.ndimage.zoom(unit, fine_side / coarse_side, order=3, mode="nearest", grid_mode=True)
        for unit in np.eye(coarse_side)
    ]
    return np.stack(columns, axis=1).astype(np.float32)
