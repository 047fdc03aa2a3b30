from dataclasses import fields

import pytest
import torch

from stunet.transforms.intensity import (
    ChannelDraw,
    IntensityDraw,
    apply_gamma,
    apply_intensity,
    gaussian_blur,
    noise_of,
    scale_brightness,
    scale_contrast,
    simulate_low_resolution,
)

ALL_AXES = (0, 1, 2)
EVERYTHING = ChannelDraw(
    blur_sigma=0.8,
    brightness=1.2,
    contrast=0.8,
    low_res_zoom=0.6,
    inverted_gamma=0.8,
    gamma=1.3,
)


def image(channels: int = 2) -> torch.Tensor:
    return torch.randn(channels, 12, 14, 10, generator=torch.Generator().manual_seed(0))


def test_nothing_drawn_costs_nothing() -> None:
    source = image()
    draw = IntensityDraw(None, 1, ALL_AXES, (ChannelDraw(), ChannelDraw()))
    assert apply_intensity(source, draw) is source


def test_order_of_operations_and_independence_of_channels() -> None:
    source = image()
    draw = IntensityDraw(0.05, 17, (1, 2), (ChannelDraw(), EVERYTHING))
    result = apply_intensity(source, draw)

    noisy = source + noise_of(draw, source.shape)
    step = gaussian_blur(noisy[1], 0.8)
    step = scale_brightness(step, 1.2)
    step = scale_contrast(step, 0.8)
    step = simulate_low_resolution(step, 0.6, (1, 2))
    step = apply_gamma(step, 0.8, invert=True)
    step = apply_gamma(step, 1.3)
    assert torch.equal(result, torch.stack([noisy[0], step]))


@pytest.mark.parametrize("name", [field.name for field in fields(ChannelDraw)])
def test_each_operation_leaves_its_input_alone_and_changes_its_output(name: str) -> None:
    source = image(1)
    before = source.clone()
    channel = ChannelDraw(**{name: getattr(EVERYTHING, name)})
    result = apply_intensity(source, IntensityDraw(None, 0, ALL_AXES, (channel,)))
    assert torch.equal(source, before)
    assert result.shape == source.shape and result.dtype == torch.float32
    assert not torch.allclose(result, source)


def noise(seed: int) -> torch.Tensor:
    drawn = noise_of(IntensityDraw(0.1, seed, ALL_AXES, ()), (1, 40, 40, 40))
    assert drawn is not None
    return drawn


def test_noise_is_white_and_belongs_to_its_seed() -> None:
    drawn = noise(3)
    assert drawn.mean().item() == pytest.approx(0, abs=4 * 0.1 / 64000**0.5)
    assert drawn.std().item() == pytest.approx(0.1, rel=0.02)
    assert torch.equal(noise(3), drawn)
    assert not torch.equal(noise(4), drawn)


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    noise(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_constant_image_stays_finite_and_constant() -> None:
    source = torch.full((1, 8, 8, 8), -0.7)
    channel = ChannelDraw(0.8, 1.0, 0.8, 0.6, 0.8, 1.3)
    result = apply_intensity(source, IntensityDraw(None, 0, ALL_AXES, (channel,)))
    torch.testing.assert_close(result, source)


def test_low_resolution_spares_the_other_axes() -> None:
    ramp = torch.rand(16, generator=torch.Generator().manual_seed(1))
    source = ramp[:, None, None].expand(16, 12, 12)
    torch.testing.assert_close(simulate_low_resolution(source, 0.5, (1, 2)), source)
    assert not torch.allclose(simulate_low_resolution(source, 0.5, (0,)), source, atol=0.1)
