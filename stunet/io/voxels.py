"""Voxel values: which types leave the readers, and which values are refused.

Not for geometry (`grid`) nor for resampling or normalisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stunet.errors import VolumeError

if TYPE_CHECKING:
    from pathlib import Path

MAX_LABEL = int(np.iinfo(np.uint16).max)


def check_scalar(dtype: np.dtype, path: Path) -> None:
    """Accept integers and floats; complex numbers and colours are refused.

    Raises:
        VolumeError: Voxels are not scalars.
    """
    if dtype.kind not in "iuf":
        raise VolumeError(f"{path}: voxel type {dtype} is not a number; save one real channel")


def as_image(values: np.ndarray, place: Path | str) -> np.ndarray:
    """Return native int16 or int32 where the type of `values` fits in it, else float32.

    64-bit and unsigned 32-bit integers become int32 if their values fit. `place` is for messages.

    Raises:
        VolumeError: NaN or infinite voxels; the message counts them.
    """
    if values.dtype.kind in "iu":
        if np.can_cast(values.dtype, np.int16):
            return values.astype(np.int16, copy=False)
        bounds = np.iinfo(np.int32)
        fits = np.can_cast(values.dtype, np.int32)
        if fits or (values.min() >= bounds.min and values.max() <= bounds.max):
            return values.astype(np.int32, copy=False)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite and is refused
        image = values.astype(np.float32, copy=False)
    if not np.isfinite(image).all():
        nans = int(np.isnan(image).sum())
        infinite = int(np.isinf(image).sum())
        raise VolumeError(
            f"{place}: {nans} NaN and {infinite} infinite voxels of {image.size}; replace them with"
            " finite values and save it again"
        )
    return image


def as_label(values: np.ndarray, place: Path | str) -> np.ndarray:
    """Return label values as uint8 if the largest fits, else uint16. Float files may hold integers.

    `place` is for messages.

    Raises:
        VolumeError: A value is not an integer, is negative or is above 65535.
    """
    if values.dtype.kind == "f":
        odd = values[~np.isfinite(values) | (values != np.round(values))]
        if odd.size:
            raise VolumeError(
                f"{place}: {odd.size} label voxels are not integers, e.g. {odd[0]:.6g}; resample"
                " the label with nearest neighbours and save integers"
            )
    smallest, largest = values.min(), values.max()
    if smallest < 0 or largest > MAX_LABEL:
        value = smallest if smallest < 0 else largest
        raise VolumeError(
            f"{place}: label value {value:.0f} is outside 0..{MAX_LABEL}; renumber the labels"
        )
    return values.astype(label_dtype(int(largest)), copy=False)


def label_dtype(largest: int) -> type[np.uint8] | type[np.uint16]:
    """Return the smallest unsigned type that holds label values up to `largest`."""
    return np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16
