"""The windowed mean against closed forms, scipy and a slow loop written from the definition."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from stunet.inference.sliding_window import (
    WindowOptions,
    gaussian,
    pad_to_patch,
    plan_windows,
    window_starts,
)
from stunet.inference.sweep import Network, sweep_planes

PATCH = (8, 6, 10)


def random_image(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def swept_logits(body, image, patch, step=0.5, batch=1, mirror_axes=()) -> torch.Tensor:
    """The planes of a sweep put together to (K, Z, Y, X)."""
    padded, inner = pad_to_patch(image, patch)
    windows = plan_windows(padded, patch, step)
    options = WindowOptions(step, batch, mirror_axes)
    planes = list(sweep_planes(Network(body), padded, windows, inner, options))
    stacked = torch.stack(planes, dim=1)
    return stacked.permute(0, *(1 + windows.order.index(axis) for axis in range(3)))


def pointwise(x: torch.Tensor) -> torch.Tensor:
    """A fixed 1x1x1 convolution of 2 channels to 3: knows nothing of its neighbours."""
    mix = torch.tensor([[1.0, 0.0], [0.5, -2.0], [0.0, 3.0]])
    return torch.einsum("kc,bczyx->bkzyx", mix, x)


class Conv3(torch.nn.Module):
    """Sees its neighbours and the window's border, so that every window gives another value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(2, 3, 3, padding=1)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def loop_reference(model, image, patch, step, flips) -> np.ndarray:
    """Float64 mean over windows placed one axis at a time, weights by scipy from an impulse."""
    impulse = np.zeros(patch)
    impulse[tuple(n // 2 for n in patch)] = 1
    weight = gaussian_filter(impulse, [n / 8 for n in patch], mode="constant")
    firsts = []
    for length, n in zip(image.shape[1:], patch, strict=True):
        count = int(np.ceil((length - n) / (n * step))) + 1
        firsts.append([int(np.round(a)) for a in np.linspace(0, length - n, count)])
    numerator = denominator = 0.0
    for z, y, x in itertools.product(*firsts):
        window = image[None, :, z : z + patch[0], y : y + patch[1], x : x + patch[2]]
        answers = [torch.flip(model(torch.flip(window, f)), f)[0].detach().numpy() for f in flips]
        placed = np.zeros((answers[0].shape[0], *image.shape[1:]))
        mass = np.zeros(image.shape[1:])
        at = (slice(z, z + patch[0]), slice(y, y + patch[1]), slice(x, x + patch[2]))
        placed[(slice(None), *at)] = np.mean(answers, axis=0) * weight
        mass[at] = weight
        numerator, denominator = numerator + placed, denominator + mass
    return numerator / denominator


@pytest.mark.parametrize("patch", [(16, 24, 40), (8, 7, 9), (128, 4, 1)])
def test_gaussian_equals_a_filtered_impulse(patch):
    impulse = np.zeros(patch)
    impulse[tuple(n // 2 for n in patch)] = 1
    expected = gaussian_filter(impulse, [n / 8 for n in patch], mode="constant")
    np.testing.assert_allclose(gaussian(patch), expected / expected.max(), rtol=1e-5)


def test_every_voxel_of_a_large_window_has_weight():
    assert gaussian((64, 64, 64)).min() > torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("shape", [(8, 6, 10), (17, 6, 23), (21, 20, 11)])
@pytest.mark.parametrize("step", [0.25, 0.5, 1.0])
def test_a_pointwise_model_is_reproduced(shape, step):
    image = random_image((2, *shape))
    logits = swept_logits(pointwise, image, PATCH, step)
    torch.testing.assert_close(logits, pointwise(image[None])[0], rtol=1e-6, atol=1e-6)


def test_a_constant_model_stays_constant():
    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.full((x.shape[0], 4, *x.shape[2:]), 2.5)

    logits = swept_logits(model, random_image((1, 19, 13, 22)), PATCH)
    torch.testing.assert_close(logits, torch.full((4, 19, 13, 22), 2.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("step", [0.5, 0.3])
@pytest.mark.parametrize("mirror_axes", [(), (2,), (0, 1, 2)])
def test_equals_the_slow_loop(step, mirror_axes):
    image = random_image((2, 19, 12, 23))
    flips = [
        [axis + 2 for axis in subset]
        for n in range(len(mirror_axes) + 1)
        for subset in itertools.combinations(mirror_axes, n)
    ]
    expected = loop_reference(Conv3(), image, PATCH, step, flips)
    got = swept_logits(Conv3(), image, PATCH, step, batch=3, mirror_axes=mirror_axes)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_small_volume_sees_zeros_on_both_sides():
    image = random_image((2, 5, 9, 3))
    surrounded = torch.zeros((2, 8, 9, 10))
    surrounded[:, 1:6, :, 3:6] = image
    expected = swept_logits(Conv3(), surrounded, PATCH)[:, 1:6, :, 3:6]
    got = swept_logits(Conv3(), image, PATCH)
    assert got.shape == (3, 5, 9, 3)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shape", "patch", "step", "starts"),
    [
        # Values computed by hand from nnU-Net's rule for these sizes.
        ((30, 224, 224), (28, 128, 128), 0.5, ((0, 2), (0, 48, 96), (0, 48, 96))),
        ((228, 228, 240), (128, 128, 128), 0.5, ((0, 50, 100), (0, 50, 100), (0, 56, 112))),
        ((128, 129, 256), (128, 128, 128), 1.0, ((0,), (0, 1), (0, 128))),
    ],
)
def test_starts(shape, patch, step, starts):
    assert window_starts(shape, patch, step) == starts
