"""Turn physical values (HU, MR signal, SUV) into network input.

The loader and the predictor both call `normalize`, so that a network meets at inference exactly
what it met in training. Quantising for the store is not done here: see `data_tools/quantise.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stunet.errors import ConfigError
from stunet.types import Channel, ChannelStatistics

SMALLEST_STD = 1e-8  # keeps a division finite; added by nnU-Net v1 to the std of each volume


def statistics(image_czyx: np.ndarray) -> tuple[ChannelStatistics, ...]:
    """Mean, standard deviation and range of each channel over all voxels.

    Args:
        image_czyx: (C, Z, Y, X) float32 in physical units, finite; the whole volume at the target
            spacing, since `zscore` depends on how much air surrounds the patient.

    Returns:
        One record per channel, in physical units; accumulated in double precision.
    """
    return tuple(_channel_statistics(volume) for volume in image_czyx)


def _channel_statistics(volume_zyx: np.ndarray) -> ChannelStatistics:
    mean = float(volume_zyx.mean(dtype=np.float64))
    # Plane by plane: a double-precision copy of a whole scan would take gigabytes.
    squares = sum(float(np.square(plane.astype(np.float64) - mean).sum()) for plane in volume_zyx)
    return ChannelStatistics(
        mean=mean,
        std=float(np.sqrt(squares / volume_zyx.size)),
        min=float(volume_zyx.min()),
        max=float(volume_zyx.max()),
    )


def normalize(
    image_czyx: np.ndarray,
    channels: Sequence[Channel],
    statistics: Sequence[ChannelStatistics],
) -> np.ndarray:
    """Scale each channel as its scheme says (see `stunet.types.Channel`).

    Args:
        image_czyx: (C, z, y, x) float32 in physical units; a whole volume or a patch of one.
        channels: One per image channel.
        statistics: Of the whole volume, one per image channel. A channel whose volume is constant
            becomes zero under `zscore` and `rescale`.

    Returns:
        New (C, z, y, x) float32 array, without unit.

    Raises:
        ConfigError: a `ct` channel lacks its data-set values.

    Source: nnU-Net v2 normalisation schemes; `zscore` as in v1 and the released STU-Net weights
    (all voxels, standard deviation plus 1e-8).
    """
    result = np.empty(image_czyx.shape, dtype=np.float32)
    for volume, channel, whole, out in zip(image_czyx, channels, statistics, result, strict=True):
        _normalize_channel(volume, channel, whole, out)
    return result


def _normalize_channel(
    volume: np.ndarray, channel: Channel, whole: ChannelStatistics, out: np.ndarray
) -> None:
    if channel.scheme == "ct":
        if channel.clip is None or channel.mean is None or channel.std is None:
            raise ConfigError(
                f"channel {channel.name}: scheme ct needs clip, mean and std of the data set; "
                "give them or choose zscore"
            )
        np.clip(volume, *channel.clip, out=out)
        _shift_and_scale(out, channel.mean, max(channel.std, SMALLEST_STD), out)
    elif channel.scheme == "none":
        out[...] = volume
    elif whole.min == whole.max:
        out[...] = 0.0
    elif channel.scheme == "zscore":
        _shift_and_scale(volume, whole.mean, whole.std + SMALLEST_STD, out)
    else:
        _shift_and_scale(volume, whole.min, whole.max - whole.min, out)


def _shift_and_scale(volume: np.ndarray, shift: float, scale: float, out: np.ndarray) -> None:
    np.subtract(volume, np.float32(shift), out=out)
    np.divide(out, np.float32(scale), out=out)
