"""Intensity operations against numpy and scipy, in double precision."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from stunet.transforms.intensity import (
    apply_gamma,
    gaussian_blur,
    scale_contrast,
    simulate_low_resolution,
)


def image(shape: tuple[int, int, int] = (21, 32, 17)) -> np.ndarray:
    rng = np.random.default_rng(4)
    return scipy.ndimage.gaussian_filter(rng.normal(size=shape), 1.0) * 3 + rng.random(shape)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))


@pytest.mark.parametrize("sigma", [0.5, 0.77, 1.0])
@pytest.mark.parametrize("shape", [(21, 32, 17), (2, 9, 1)])
def test_blur_equals_scipy(sigma: float, shape: tuple[int, int, int]) -> None:
    source = image(shape)
    expected = scipy.ndimage.gaussian_filter(source, sigma, mode="reflect", truncate=3.0)
    np.testing.assert_allclose(gaussian_blur(as_tensor(source), sigma), expected, atol=2e-6)


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_equals_numpy(factor: float) -> None:
    source = image()
    stretched = (source - source.mean()) * factor + source.mean()
    expected = np.clip(stretched, source.min(), source.max())
    np.testing.assert_allclose(scale_contrast(as_tensor(source), factor), expected, atol=2e-6)


@pytest.mark.parametrize("zoom", [0.5, 0.63, 0.9, 1.0])
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2)])
def test_low_resolution_equals_scipy_zoom(zoom: float, axes: tuple[int, ...]) -> None:
    source = image()
    coarse_shape = [round(s * zoom) if a in axes else s for a, s in enumerate(source.shape)]
    down = [c / s for c, s in zip(coarse_shape, source.shape, strict=True)]
    options = {"mode": "nearest", "grid_mode": True}
    coarse = scipy.ndimage.zoom(source, down, order=0, **options)
    assert coarse.shape == tuple(coarse_shape)
    fine = scipy.ndimage.zoom(coarse, 1 / np.array(down), order=3, **options)
    expected = np.clip(fine, coarse.min(), coarse.max())
    result = simulate_low_resolution(as_tensor(source), zoom, axes)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.7, 1.5])
@pytest.mark.parametrize("invert", [False, True])
def test_gamma_equals_numpy(gamma: float, invert: bool) -> None:
    source = image()
    work = -source if invert else source
    span = work.max() - work.min()
    curved = ((work - work.min()) / span) ** gamma * span + work.min()
    restored = (curved - curved.mean()) / curved.std() * work.std() + work.mean()
    expected = -restored if invert else restored
    result = apply_gamma(as_tensor(source), gamma, invert=invert)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert result.mean().item() == pytest.approx(source.mean(), abs=1e-5)
    assert result.std(correction=0).item() == pytest.approx(source.std(), abs=1e-5)
