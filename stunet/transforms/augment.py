"""Which augmentation a patch gets: probabilities and ranges, and the draws made from them.

A draw is made before any voxel is read and holds plain numbers, so that a sample can be listed,
compared and replayed. What the numbers do to voxels stands in `stunet.transforms.spatial`,
`label_vote` and `intensity`.

Every number is taken from the generator whether it is used or not: a changed probability never
shifts the draws that follow.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from stunet.errors import ConfigError
from stunet.transforms.intensity import ChannelDraw, IntensityDraw
from stunet.transforms.spatial import SpatialDraw, thick_axis
from stunet.types import Spacing

Range = tuple[float, float]
AugmentDevice = Literal["cpu", "device", "auto"]


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities (`*_p`) per patch, and ranges of uniform draws.

    A range of factors is halved at 1: below and above are equally likely.

    Source: the defaults of nnU-Net v1 and v2.2, which STU-Net (arXiv 2304.06716) was pre-trained
    with. Its "noise variance" 0 to 0.1 is used there as a standard deviation, hence the name here.

    Attributes:
        enabled: Off: patches are plain crops.
        device: Who does it: `cpu` the loader's workers, `device` the one that trains, `auto` the
            faster. The patches are the same (`stunet.transforms.windows`).
        rotation_p, rotation_deg: Turn about each axis by up to this angle, either way.
        scale_p, scale: Side of the sampled region over side of the patch, the same on all axes.
        mirror_p, mirror_axes: Chance per axis, and the axes (0 z, 1 y, 2 x) that may be flipped.
            Axis 2 swaps left and right: the network must then tell sides by other organs.
        channel_p: Chance of each channel once its patch gets blur or low resolution.
        noise_p, noise_std: White noise, one standard deviation for all channels.
        blur_p, blur_sigma: Gaussian blur, in voxels.
        brightness_p, brightness: Factor on all values.
        contrast_p, contrast: Factor on the distance from the mean.
        low_res_p, low_res_zoom: Side of the coarser grid over side of the patch.
        inverted_gamma_p, gamma_p, gamma: Exponents, on the negated image and on the image.
    """

    enabled: bool = True
    device: AugmentDevice = "cpu"
    rotation_p: float = 0.2
    rotation_deg: float = 30.0
    scale_p: float = 0.2
    scale: Range = (0.7, 1.4)
    mirror_p: float = 0.5
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    channel_p: float = 0.5
    noise_p: float = 0.1
    noise_std: Range = (0.0, 0.1)
    blur_p: float = 0.2
    blur_sigma: Range = (0.5, 1.0)
    brightness_p: float = 0.15
    brightness: Range = (0.75, 1.25)
    contrast_p: float = 0.15
    contrast: Range = (0.75, 1.25)
    low_res_p: float = 0.25
    low_res_zoom: Range = (0.5, 1.0)
    inverted_gamma_p: float = 0.1
    gamma_p: float = 0.3
    gamma: Range = (0.7, 1.5)

    def __post_init__(self) -> None:
        for name, low, high in _limits():
            value = getattr(self, name)
            first, last = value if isinstance(value, tuple) else (value, value)
            if not low <= first <= last <= high:
                raise ConfigError(f"augment.{name}={value}: give {low:g} to {high:g}, ascending")
        if not set(self.mirror_axes) <= {0, 1, 2}:
            raise ConfigError(f"augment.mirror_axes={self.mirror_axes}: give some of 0, 1, 2")


def _limits() -> list[tuple[str, float, float]]:
    """List each number of the config with the least and the largest value that makes sense."""
    names = [field.name for field in fields(AugmentConfig)]
    return [
        *((name, 0.0, 1.0) for name in names if name.endswith("_p")),
        ("rotation_deg", 0.0, 180.0),
        ("scale", 0.1, 10.0),
        ("noise_std", 0.0, 100.0),
        ("blur_sigma", 0.01, 10.0),
        ("brightness", 0.0, 100.0),
        ("contrast", 0.0, 100.0),
        ("low_res_zoom", 0.01, 1.0),
        ("gamma", 0.01, 100.0),
    ]


def draw_spatial(
    config: AugmentConfig, generator: np.random.Generator, spacing_mm: Spacing
) -> SpatialDraw:
    """Draw rotation, scale and mirroring of one patch.

    Where one axis is much coarser than the others (`thick_axis`), only the plane across it is
    turned and scaled, by up to the same angle as elsewhere; nnU-Net turns it by up to 180 degrees.
    """
    if not config.enabled:
        return SpatialDraw()
    thick = thick_axis(spacing_mm)
    turned = generator.random() < config.rotation_p
    degrees = (config.rotation_deg * (2 * generator.random(3) - 1)).tolist()
    factor = _factor(generator, config.scale_p, config.scale) or 1.0
    flipped = (generator.random(3) < config.mirror_p).tolist()

    turn = [degrees[i] if turned and thick in (None, i) else 0.0 for i in range(3)]
    side = [factor if thick != i else 1.0 for i in range(3)]
    flip = [flipped[i] and i in config.mirror_axes for i in range(3)]
    return SpatialDraw(
        rotation_deg=(turn[0], turn[1], turn[2]),
        scale=(side[0], side[1], side[2]),
        mirror=(flip[0], flip[1], flip[2]),
    )


def draw_intensity(
    config: AugmentConfig,
    generator: np.random.Generator,
    noise_seed: int,
    channels: int,
    spacing_mm: Spacing,
) -> IntensityDraw:
    """Draw the intensity operations of one patch.

    Args:
        config: Probabilities and ranges.
        generator: The stream of this patch and purpose.
        noise_seed: Seed of the noise image, from a stream of its own.
        channels: Number of image channels; each gets its own numbers.
        spacing_mm: Voxel spacing, z y x; low resolution spares a thick axis.
    """
    thick = thick_axis(spacing_mm)
    axes = tuple(axis for axis in range(3) if axis != thick)
    if not config.enabled:
        return IntensityDraw(None, noise_seed, axes, (ChannelDraw(),) * channels)
    noise_std = _uniform(generator, config.noise_p, config.noise_std)
    per_patch = (
        config.blur_p,
        config.brightness_p,
        config.contrast_p,
        config.low_res_p,
        config.inverted_gamma_p,
        config.gamma_p,
    )
    blur, brightness, contrast, low_res, inverted_gamma, gamma = (
        1.0 if generator.random() < probability else 0.0 for probability in per_patch
    )
    drawn = [
        ChannelDraw(
            blur_sigma=_uniform(generator, blur * config.channel_p, config.blur_sigma),
            brightness=_factor(generator, brightness, config.brightness),
            contrast=_factor(generator, contrast, config.contrast),
            low_res_zoom=_uniform(generator, low_res * config.channel_p, config.low_res_zoom),
            inverted_gamma=_factor(generator, inverted_gamma, config.gamma),
            gamma=_factor(generator, gamma, config.gamma),
        )
        for _ in range(channels)
    ]
    return IntensityDraw(noise_std, noise_seed, axes, tuple(drawn))


def _uniform(generator: np.random.Generator, probability: float, bounds: Range) -> float | None:
    hit, where = generator.random() < probability, generator.random()
    return bounds[0] + where * (bounds[1] - bounds[0]) if hit else None


def _factor(generator: np.random.Generator, probability: float, bounds: Range) -> float | None:
    """Draw a factor; where the range spans 1, half of the draws lie on either side of it."""
    low, high = bounds
    below = generator.random() < 0.5
    if low < 1.0 < high:
        bounds = (low, 1.0) if below else (1.0, high)
    return _uniform(generator, probability, bounds)
