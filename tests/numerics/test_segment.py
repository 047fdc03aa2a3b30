"""Swept labels against the dense computation, voxel by voxel: all windows, all classes, arg-max."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch import nn

from stunet.inference.segment import segment
from stunet.inference.sliding_window import (
    WindowOptions,
    gaussian,
    pad_to_patch,
    plan_windows,
)
from stunet.inference.sweep import Network


def conv(c_in: int, c_out: int, size: int) -> nn.Conv3d:
    layer = nn.Conv3d(c_in, c_out, size, padding=size // 2).requires_grad_(False)
    generator = torch.Generator().manual_seed(c_out)
    for p in layer.parameters():
        p.copy_(torch.randn(p.shape, generator=generator))
    return layer


BODY, HEAD = conv(2, 9, 3), conv(9, 31, 1)  # neighbours and the window's border change the logits


def dense_logits(body, image, patch, options) -> tuple[np.ndarray, tuple[int, int, int]]:
    """(K, Z, Y, X) of the whole volume at once, windows added in the order of visit."""
    padded, inner = pad_to_patch(image, patch)
    windows = plan_windows(padded, patch, options.step)
    boxes = list(windows.boxes())
    flips = [
        [axis + 2 for axis in subset]
        for n in range(len(options.mirror_axes) + 1)
        for subset in itertools.combinations(options.mirror_axes, n)
    ]
    total = None
    for first in range(0, len(boxes), options.batch):
        group = boxes[first : first + options.batch]
        tiles = torch.stack([padded[(slice(None), *box)] for box in group])
        answers = [torch.flip(body(torch.flip(tiles, f)), f) for f in flips]
        mean = sum(answers[1:], answers[0])
        mean = mean / len(flips) if len(flips) > 1 else mean
        if total is None:
            total = torch.zeros((mean.shape[1], *padded.shape[1:]))
        for box, window in zip(group, mean, strict=True):
            total[(slice(None), *box)] += window * gaussian(patch)
    z, y, x = windows.weight_lines()
    total /= (z[:, None, None] * y[:, None] * x).float()
    return total[(slice(None), *inner)].numpy(), windows.order


def dense_interpolation(logits_kzyx: np.ndarray, order, shape_to) -> np.ndarray:
    """Every output everywhere in float32, one axis after the other."""
    full = logits_kzyx
    for axis in order:
        n, to = logits_kzyx.shape[1 + axis], shape_to[axis]
        position = np.clip((np.arange(to) + 0.5) * (n / to) - 0.5, 0, n - 1)
        lower = np.floor(position).astype(int)
        weight = np.float32(position - lower).reshape([-1 if a == axis else 1 for a in range(3)])
        below, above = (
            np.take(full, np.minimum(index, n - 1), axis=1 + axis) for index in (lower, lower + 1)
        )
        full = below * (np.float32(1) - weight) + above * weight
    assert full.dtype == np.float32
    return full


def dense_labels(logits_kzyx: np.ndarray, order, shape_to) -> np.ndarray:
    return dense_interpolation(logits_kzyx, order, shape_to).argmax(axis=0)


CASES = [  # volume, patch, result: swept along z, y, x; smaller than the patch; same grid
    ((19, 12, 13), (8, 7, 10), (30, 20, 25)),
    ((9, 30, 9), (9, 8, 9), (20, 41, 3)),
    ((9, 9, 41), (9, 9, 11), (20, 11, 77)),
    ((5, 9, 3), (8, 6, 10), (9, 9, 5)),
    ((21, 20, 11), (8, 7, 9), (21, 20, 11)),
    ((6, 25, 24), (4, 12, 12), (18, 13, 50)),
]


@pytest.mark.parametrize("headed", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        WindowOptions(),
        WindowOptions(0.3, batch=3),
        WindowOptions(0.5, batch=2, mirror_axes=(0, 1, 2)),
        WindowOptions(1.0, batch=100),
    ],
    ids=str,
)
@pytest.mark.parametrize(("shape", "patch", "shape_to"), CASES)
def test_every_voxel_is_that_of_the_dense_computation(shape, patch, shape_to, options, headed):
    image = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    logits, order = dense_logits(BODY, image, patch, options)
    if headed:
        logits = HEAD(torch.from_numpy(logits.copy())[None])[0].numpy()
    expected = dense_labels(logits, order, shape_to)
    network = Network(BODY, HEAD if headed else None)
    found = segment(network, image, patch, shape_to, options)
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 3


@pytest.mark.parametrize("headed", [False, True])
@pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
@pytest.mark.parametrize(("shape", "patch", "shape_to"), CASES)
def test_regions_are_painted_as_in_the_dense_computation(
    shape, patch, shape_to, mirror_axes, headed
):
    paints = tuple(31 - k for k in range(31)) if headed else (4, 1, 9, 2, 3, 8, 7, 6, 5)
    options = WindowOptions(0.5, batch=2, mirror_axes=mirror_axes)
    image = torch.randn((2, *shape), generator=torch.Generator().manual_seed(4))
    logits, order = dense_logits(BODY, image, patch, options)
    if headed:
        logits = HEAD(torch.from_numpy(logits.copy())[None])[0].numpy()
    full = dense_interpolation(logits, order, shape_to)
    expected = np.zeros(shape_to, np.uint8)
    for region, value in enumerate(paints):
        expected[full[region] > 0] = value
    network = Network(BODY, HEAD if headed else None, paints=paints)
    found = segment(network, image, patch, shape_to, options)
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 3


def test_the_head_after_the_mean_is_the_mean_after_the_head():
    image = torch.randn((2, 14, 15, 16), generator=torch.Generator().manual_seed(1))
    apart = segment(Network(BODY, HEAD), image, (6, 7, 8), (25, 20, 30))
    logits, order = dense_logits(lambda x: HEAD(BODY(x)), image, (6, 7, 8), WindowOptions())
    together = segment(Network(lambda x: HEAD(BODY(x))), image, (6, 7, 8), (25, 20, 30))
    assert np.array_equal(together, dense_labels(logits, order, (25, 20, 30)))
    assert (apart != together).mean() < 1e-4  # ties within rounding only


def test_a_region_is_the_whole_there_and_background_elsewhere():
    def body(x: torch.Tensor) -> torch.Tensor:  # pointwise: windows do not matter
        return torch.cat((-x, x, 2 * x), dim=1)

    image = torch.randn((1, 20, 18, 16), generator=torch.Generator().manual_seed(2)) + 1
    region = (slice(3, 17), slice(0, 9), slice(5, 16))
    whole = segment(Network(body), image, (8, 8, 8), (40, 18, 24))
    part = segment(Network(body), image, (8, 8, 8), (40, 18, 24), region=region)
    inside = np.ones(whole.shape, bool)
    for axis, cut in enumerate(region):
        n, to = image.shape[1 + axis], whole.shape[axis]
        position = np.clip((np.arange(to) + 0.5) * (n / to) - 0.5, 0, n - 1)
        keep = (position >= cut.start) & (position <= cut.stop - 1)
        inside &= keep.reshape([-1 if a == axis else 1 for a in range(3)])
    assert np.array_equal(part, np.where(inside, whole, 0))
    assert 0.1 < inside.mean() < 0.5


def test_agrees_with_scipy_in_double_precision():
    image = torch.randn((2, 12, 14, 10), generator=torch.Generator().manual_seed(3))
    logits, _ = dense_logits(BODY, image, (6, 7, 5), WindowOptions())
    to = (20, 9, 23)
    factors = [b / a for a, b in zip(logits.shape[1:], to, strict=True)]
    full = np.stack(
        [zoom(k.astype(float), factors, order=1, mode="nearest", grid_mode=True) for k in logits]
    )
    found = segment(Network(BODY), image, (6, 7, 5), to)
    chosen = np.take_along_axis(full, found[None].astype(int), axis=0)[0]
    np.testing.assert_allclose(chosen, full.max(axis=0), atol=1e-4)
    assert (found == full.argmax(axis=0)).mean() > 0.999
