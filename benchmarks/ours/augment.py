"""Augmentation by a worker's loops and by the device's operations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.inputs import PATCH, SPACING_MM, random_logits
from stunet.transforms.augment import AugmentConfig, draw_intensity, draw_spatial
from stunet.transforms.windows import (
    Window,
    augment,
    augment_on_device,
    plan_augmentation,
    with_noise,
)

STRUCTURE = 8  # voxels, the side of a block of one label


def augmenting(place: str, patches: int, classes: int) -> Callable[[], None]:
    """Augment windows with the default draws, `place` being `worker` or a device."""
    windows = [_window(seed, classes) for seed in range(patches)]
    ready = [window if place == "worker" else with_noise(window) for window in windows]

    def turn() -> None:
        for window in ready:
            if place == "worker":
                augment(window)
            else:
                augment_on_device(window, torch.device(place))

    return turn


def _window(seed: int, classes: int) -> Window:
    generator = np.random.default_rng(seed)
    config = AugmentConfig()
    plan, _, shape = plan_augmentation(
        draw_spatial(config, generator, SPACING_MM),
        draw_intensity(config, generator, seed, 1, SPACING_MM),
        SPACING_MM,
        (0, 0, 0),
        PATCH,
    )
    z, y, x = (axis // STRUCTURE for axis in np.ogrid[tuple(slice(side) for side in shape)])
    label = ((z + 7 * y + 49 * x) % classes).astype(np.uint8)  # as many borders whatever `classes`
    return Window(torch.from_numpy(random_logits(1, shape)), torch.from_numpy(label), plan)
