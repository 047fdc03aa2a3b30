"""Normalisation against its closed forms."""

import numpy as np
import pytest

from stunet.errors import ConfigError
from stunet.transforms.normalize import normalize, statistics
from stunet.types import Channel, ChannelStatistics

CT = Channel("CT", "ct", clip=(-200.0, 300.0), mean=50.0, std=80.0)


def volume(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(100.0, 300.0, (1, 7, 8, 9)).astype(np.float32)


def test_statistics_equal_double_precision_numpy() -> None:
    image = np.concatenate([volume(1), 1e6 + volume(2)])
    for record, channel in zip(statistics(image), image.astype(np.float64), strict=True):
        assert record.mean == pytest.approx(channel.mean(), rel=1e-12)
        assert record.std == pytest.approx(channel.std(), rel=1e-12)
        assert (record.min, record.max) == (channel.min(), channel.max())


def test_ct_clips_then_uses_the_data_set_values() -> None:
    image = np.array([-1000.0, -200.0, 50.0, 130.0, 3000.0], np.float32).reshape(1, 1, 1, 5)
    result = normalize(image, (CT,), statistics(image))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.ravel(), [-3.125, -3.125, 0.0, 1.0, 3.125])


def test_zscore_has_zero_mean_and_unit_deviation() -> None:
    image = volume()
    result = normalize(image, (Channel("T1", "zscore"),), statistics(image))
    expected = (image - image.mean()) / (image.std() + 1e-8)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert abs(result.mean()) < 1e-5
    assert result.std() == pytest.approx(1.0, abs=1e-5)


def test_rescale_spans_zero_to_one_and_none_changes_nothing() -> None:
    image = np.concatenate([volume(1), volume(2)])
    channels = (Channel("a", "rescale"), Channel("b", "none"))
    result = normalize(image, channels, statistics(image))
    assert (result[0].min(), result[0].max()) == (0.0, 1.0)
    np.testing.assert_array_equal(result[1], image[1])


@pytest.mark.parametrize("scheme", ["zscore", "rescale"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1024.0, 1.7e6])
def test_constant_volume_becomes_zero(scheme: str, value: float) -> None:
    image = np.full((1, 4, 4, 4), value, np.float32)
    result = normalize(image, (Channel("x", scheme),), statistics(image))  # type: ignore[arg-type]
    np.testing.assert_array_equal(result, 0.0)


def test_patch_equals_the_same_voxels_of_the_volume() -> None:
    image = np.concatenate([volume(1), volume(2), volume(3)])
    channels = (CT, Channel("T1", "zscore"), Channel("T2", "rescale"))
    whole = statistics(image)
    patch = (slice(None), slice(2, 5), slice(1, 8), slice(0, 3))
    np.testing.assert_array_equal(
        normalize(image[patch], channels, whole), normalize(image, channels, whole)[patch]
    )


def test_stored_integers_are_physical_values_first() -> None:
    stored = np.arange(-(2**15), 2**15, dtype=np.int16).reshape(1, 16, 64, 64)
    stored = np.concatenate([stored] * 4)
    scale, offset = (1.0, 0.03, 2.5, 0.7), (0.0, 900.0, -7.0, 0.1)
    channels = (CT, Channel("T1", "zscore"), Channel("T2", "rescale"), Channel("b", "none"))
    factors, shifts = (np.float32(v).reshape(4, 1, 1, 1) for v in (scale, offset))
    physical = stored * factors + shifts
    whole = statistics(physical)
    result = normalize(stored, channels, whole, scale, offset)
    expected = [
        (physical[0].clip(-200, 300) - np.float32(50)) / np.float32(80),
        (physical[1] - np.float32(whole[1].mean)) / np.float32(whole[1].std + 1e-8),
        (physical[2] - np.float32(whole[2].min)) / np.float32(whole[2].max - whole[2].min),
        physical[3],
    ]
    np.testing.assert_array_equal(result, expected)


def test_input_is_left_alone() -> None:
    image = volume()
    before = image.copy()
    for scheme in (CT, Channel("T1", "zscore"), Channel("a", "rescale"), Channel("b", "none")):
        normalize(image, (scheme,), statistics(image))
    np.testing.assert_array_equal(image, before)


def test_ct_without_data_set_values_is_refused() -> None:
    whole = (ChannelStatistics(0.0, 1.0, -1.0, 1.0),)
    with pytest.raises(ConfigError, match="channel CT: scheme ct needs clip, mean and std"):
        normalize(volume(), (Channel("CT", "ct", clip=(-100.0, 100.0)),), whole)
