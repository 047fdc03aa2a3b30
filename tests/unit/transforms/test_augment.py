import json
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from stunet.errors import ConfigError
from stunet.transforms.augment import AugmentConfig, draw_intensity, draw_spatial
from stunet.transforms.intensity import ChannelDraw, IntensityDraw
from stunet.transforms.spatial import SpatialDraw

PATCHES = 4000
ISOTROPIC = (1.5, 1.5, 1.5)
THICK = (6.0, 0.8, 0.8)
CERTAIN = AugmentConfig(rotation_p=1.0, scale_p=1.0, mirror_p=1.0)


def generators(count: int = PATCHES) -> Iterator[np.random.Generator]:
    return (
        np.random.Generator(np.random.Philox(key=9, counter=[0, 0, 0, i])) for i in range(count)
    )


def spatial(config: AugmentConfig, spacing: tuple[float, float, float]) -> list[SpatialDraw]:
    return [draw_spatial(config, generator, spacing) for generator in generators()]


def intensity(config: AugmentConfig, channels: int = 1) -> list[IntensityDraw]:
    return [draw_intensity(config, g, 5, channels, ISOTROPIC) for g in generators()]


def assert_share(hits: int, probability: float) -> None:
    assert binomtest(hits, PATCHES, probability).pvalue > 1e-3


def assert_uniform(values: list[float], low: float, high: float) -> None:
    assert kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


def test_spatial_draws_follow_the_defaults() -> None:
    draws = spatial(AugmentConfig(), ISOTROPIC)
    turned = [draw.rotation_deg for draw in draws if any(draw.rotation_deg)]
    assert_share(len(turned), 0.2)
    for axis in range(3):
        assert_uniform([angles[axis] for angles in turned], -30, 30)
        assert_share(sum(draw.mirror[axis] for draw in draws), 0.5)
    scaled = [draw.scale[0] for draw in draws if draw.scale != (1, 1, 1)]
    assert_share(len(scaled), 0.2)
    assert all(len(set(draw.scale)) == 1 for draw in draws)
    assert_uniform([factor for factor in scaled if factor < 1], 0.7, 1.0)
    assert_uniform([factor for factor in scaled if factor > 1], 1.0, 1.4)
    assert binomtest(sum(factor < 1 for factor in scaled), len(scaled)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "probability", "low", "high"),
    [
        ("blur_sigma", 0.2 * 0.5, 0.5, 1.0),
        ("brightness", 0.15, 0.75, 1.25),
        ("contrast", 0.15, 0.75, 1.25),
        ("low_res_zoom", 0.25 * 0.5, 0.5, 1.0),
        ("inverted_gamma", 0.1, 0.7, 1.5),
        ("gamma", 0.3, 0.7, 1.5),
    ],
)
def test_intensity_draws_follow_the_defaults(
    name: str, probability: float, low: float, high: float
) -> None:
    drawn = [getattr(draw.channels[0], name) for draw in intensity(AugmentConfig())]
    values = [value for value in drawn if value is not None]
    assert_share(len(values), probability)
    assert low <= min(values) < low + 0.05 and high - 0.05 < max(values) <= high
    if name.endswith("gamma"):
        assert binomtest(sum(value < 1 for value in values), len(values)).pvalue > 1e-3
        assert_uniform([value for value in values if value > 1], 1.0, high)
    else:
        assert_uniform(values, low, high)


def test_noise_follows_the_defaults() -> None:
    values = [d.noise_std for d in intensity(AugmentConfig()) if d.noise_std is not None]
    assert_share(len(values), 0.1)
    assert_uniform(values, 0, 0.1)


def test_channels_are_hit_together_and_drawn_apart() -> None:
    pairs = [
        (draw.channels[0].gamma, draw.channels[1].gamma) for draw in intensity(AugmentConfig(), 2)
    ]
    assert all((a is None) == (b is None) for a, b in pairs)
    assert all(a != b for a, b in pairs if a is not None)


def test_a_changed_probability_shifts_no_other_draw() -> None:
    default, changed = (
        AugmentConfig(),
        AugmentConfig(rotation_p=0, noise_p=1, blur_p=1, contrast_p=0),
    )
    for before, after in zip(spatial(default, ISOTROPIC), spatial(changed, ISOTROPIC), strict=True):
        assert replace(before, rotation_deg=after.rotation_deg) == after
    for old, new in zip(intensity(default, 2), intensity(changed, 2), strict=True):
        channels = [
            replace(a, blur_sigma=b.blur_sigma, contrast=b.contrast)
            for a, b in zip(old.channels, new.channels, strict=True)
        ]
        assert tuple(channels) == new.channels


def test_thick_slices_are_turned_and_scaled_in_plane_only() -> None:
    for draw in spatial(CERTAIN, THICK)[:50]:
        z, y, x = draw.rotation_deg
        assert z != 0 and y == 0 and x == 0
        assert draw.scale[0] == 1 and draw.scale[1] == draw.scale[2] != 1
        assert draw.mirror == (True, True, True)
    (generator,) = generators(1)
    assert draw_intensity(AugmentConfig(), generator, 5, 1, THICK).low_res_axes == (1, 2)


def test_only_the_chosen_axes_are_mirrored() -> None:
    draws = spatial(replace(CERTAIN, mirror_axes=(0, 1)), ISOTROPIC)
    assert {draw.mirror for draw in draws} == {(True, True, False)}


def test_switched_off_nothing_is_drawn() -> None:
    off = AugmentConfig(enabled=False)
    assert set(spatial(off, ISOTROPIC)) == {SpatialDraw()}
    assert set(intensity(off, 2)) == {IntensityDraw(None, 5, (0, 1, 2), (ChannelDraw(),) * 2)}


def test_draws_survive_json() -> None:
    for draw in spatial(CERTAIN, ISOTROPIC)[:9]:
        record = json.loads(json.dumps(asdict(draw)))
        assert SpatialDraw(**{name: tuple(values) for name, values in record.items()}) == draw
    for draw in intensity(AugmentConfig(), 2)[:50]:
        record = json.loads(json.dumps(asdict(draw)))
        assert tuple(ChannelDraw(**channel) for channel in record["channels"]) == draw.channels


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_p", 1.2),
        ("rotation_deg", -5.0),
        ("scale", (1.4, 0.7)),
        ("low_res_zoom", (0.5, 1.5)),
        ("gamma", (0.7, float("nan"))),
        ("mirror_axes", (0, 3)),
    ],
)
def test_impossible_values_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^augment\.{name}="):
        AugmentConfig(**{name: value})
