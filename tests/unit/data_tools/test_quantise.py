import numpy as np
import pytest

from data_tools.quantise import quantise
from stunet.transforms.normalize import statistics
from stunet.types import Channel

CT = Channel("CT", "ct")
MR = Channel("T1", "zscore")


def restore(image: np.ndarray, *channels: Channel) -> tuple[np.ndarray, tuple[float, ...]]:
    stored, scale, offset = quantise(image, channels, statistics(image))
    assert stored.dtype == np.int16
    physical = [
        channel.astype(np.float64) * s + o
        for channel, s, o in zip(stored, scale, offset, strict=True)
    ]
    return np.stack(physical), scale


def test_hounsfield_units_are_kept() -> None:
    image = np.array([-1024, -3, 0, 31719, 2.4, 2.6, 40000, -40000], np.float32).reshape(1, 2, 2, 2)
    restored, scale = restore(image, CT)
    assert scale == (1.0,)
    np.testing.assert_array_equal(restored.ravel(), [-1024, -3, 0, 31719, 2, 3, 32767, -32768])


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (1.7e6, 0.0), (0.01, -3.0)])
def test_other_channels_keep_their_whole_range(factor: float, shift: float) -> None:
    image = np.random.default_rng(0).gamma(2.0, 1.0, (1, 20, 20, 20)).astype(np.float32)
    image = image * np.float32(factor) + np.float32(shift)
    restored, (scale,) = restore(image, MR)
    step = (float(image.max()) - float(image.min())) / 65535
    assert scale == pytest.approx(step, rel=1e-6)
    assert np.abs(restored - image).max() <= 0.51 * step


def test_far_outliers_do_not_cost_the_others_their_precision() -> None:
    image = np.random.default_rng(0).normal(0.0, 1.0, (1, 40, 40, 40)).astype(np.float32)
    image[0, 0, 0, :3] = 1e7
    restored, (scale,) = restore(image, MR)
    usual = np.abs(image) < 3
    assert scale == pytest.approx(6.6 / 65535, rel=0.05)  # twice the 99.95 percentile of a normal
    assert np.abs(restored - image)[usual].max() <= scale
    assert restored.max() < 10


def test_one_hot_voxel_in_an_empty_volume() -> None:
    image = np.zeros((1, 60, 60, 60), np.float32)
    image[0, 1, 2, 3] = 5.0
    restored, _ = restore(image, MR)
    np.testing.assert_allclose(restored, image, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.7e6])
def test_constant_volume(value: float) -> None:
    image = np.full((2, 3, 3, 3), value, np.float32)
    restored, _ = restore(image, MR, Channel("b", "none"))
    np.testing.assert_allclose(restored, image, rtol=1e-6)
