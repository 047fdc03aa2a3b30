"""Patches made on the device against those that workers make, over many draws and kinds of scans.

The CPU runs the device's own code too, so that the comparison needs no GPU.
"""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from stunet.transforms.augment import AugmentConfig, draw_intensity, draw_spatial
from stunet.transforms.intensity import ChannelDraw, IntensityDraw
from stunet.transforms.spatial import SpatialDraw
from stunet.transforms.windows import (
    Window,
    WindowBatch,
    augment,
    augment_batch,
    augment_on_device,
    plan_augmentation,
    with_noise,
)
from stunet.types import Size3, Spacing

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
OFTEN = AugmentConfig(
    **dict.fromkeys(("rotation_p", "scale_p", "noise_p", "blur_p", "brightness_p"), 0.7),
    **dict.fromkeys(("contrast_p", "low_res_p", "inverted_gamma_p", "gamma_p"), 0.7),
)
NOTHING = IntensityDraw(None, 0, (0, 1, 2), (ChannelDraw(), ChannelDraw()))
IGNORED = 250
KINDS: list[tuple[Size3, Spacing, type]] = [
    ((28, 24, 32), (1.5, 1.5, 1.5), np.uint8),
    ((28, 25, 31), (1.0, 2.5, 1.2), np.int16),
    ((6, 40, 36), (6.0, 0.8, 0.8), np.uint8),  # thick slices: turned in their plane only
    ((1, 48, 40), (6.0, 0.8, 0.8), np.uint8),  # a single slice
]


def make_window(
    spatial: SpatialDraw, intensity: IntensityDraw, kind: tuple[Size3, Spacing, type], seed: int
) -> Window:
    """Noise over a ramp, and labels in blocks of a few voxels with many borders."""
    patch_size, spacing, dtype = kind
    plan, _, shape = plan_augmentation(spatial, intensity, spacing, (0, 0, 0), patch_size)
    rng = np.random.default_rng(seed)
    values = np.array([0, 1, 2, 7, 104, IGNORED, 255 if dtype is np.uint8 else 32767], dtype)
    blocks = values[rng.integers(0, len(values), [side // 3 + 1 for side in shape])]
    label = blocks.repeat(3, 0).repeat(3, 1).repeat(3, 2)[tuple(slice(side) for side in shape)]
    image = rng.normal(size=(2, *shape)) + np.linspace(-1, 2, shape[2])
    return Window(torch.from_numpy(image.astype(np.float32)), torch.tensor(label), plan)


def drawn_window(kind: tuple[Size3, Spacing, type], seed: int) -> Window:
    rng = np.random.default_rng([seed, 1])
    spatial = draw_spatial(OFTEN, rng, kind[1])
    return make_window(spatial, draw_intensity(OFTEN, rng, seed, 2, kind[1]), kind, seed)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS, ids=["isotropic", "uneven", "thick", "slice"])
def test_the_device_makes_the_patches_of_the_workers(
    device: str, kind: tuple[Size3, Spacing, type]
) -> None:
    labels, drawn = set(), set()
    for seed in range(60):
        window = drawn_window(kind, seed)
        image, label = augment(window)
        image_there, label_there = augment_on_device(with_noise(window), torch.device(device))
        assert image_there.device.type == label_there.device.type == device
        assert torch.equal(label_there.cpu(), label) and label_there.dtype == torch.int16
        torch.testing.assert_close(image_there.cpu(), image, rtol=1e-4, atol=1e-4)
        labels |= set(label.unique().tolist())
        drawn |= {
            number
            for channel in window.augmentation.intensity.channels
            for number, value in enumerate(astuple(channel))
            if value is not None
        }
    assert IGNORED in labels and len(labels) == 7 and drawn == set(range(6))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "spatial",
    [
        SpatialDraw((20.0, -30.0, 11.0), (1.3, 1.3, 1.3), (True, False, True)),
        SpatialDraw(scale=(2.0, 2.0, 2.0)),  # even sides: all weights are 1/8, ties everywhere
        SpatialDraw(scale=(0.5, 0.5, 0.5), mirror=(False, True, False)),
        SpatialDraw(mirror=(True, True, False)),
    ],
)
def test_space_alone_is_equal_to_the_bit(device: str, spatial: SpatialDraw) -> None:
    for kind in (KINDS[0], ((28, 24, 30), *KINDS[1][1:])):
        window = make_window(spatial, NOTHING, kind, 3)
        there = augment_on_device(window, torch.device(device))
        for ours, theirs in zip(there, augment(window), strict=True):
            assert torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_of_windows_of_several_sizes(device: str) -> None:
    windows = [with_noise(drawn_window(KINDS[0], seed)) for seed in range(6)]
    assert len({window.label_zyx.shape for window in windows}) > 2
    ids = tuple(range(6)), tuple("abcdef")
    batch = augment_batch(WindowBatch(tuple(windows), *ids, None, 0.5, 0.1), torch.device(device))
    assert (batch.sample_ids, batch.case_ids, batch.patch_s) == (*ids, 0.5)
    for window, image, label in zip(windows, batch.image_bcdhw, batch.label_bdhw, strict=True):
        expected = augment(replace(window, noise_cdhw=None))
        torch.testing.assert_close(image.cpu(), expected[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(label.cpu(), expected[1])
