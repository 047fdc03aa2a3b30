"""What a label map says about each structure: volume, intensity, whether the image cuts it off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from stunet.io.volume import Volume


@dataclass(frozen=True)
class Structure:
    """One structure of one scan.

    Attributes:
        value: Its label value.
        voxels: How many.
        volume_ml: Their volume.
        mean_intensity: Channel name to mean physical value (HU in CT); empty without voxels.
        touches_border: Whether a voxel lies on a face of the image, so that the structure may go on
            outside and its volume is a lower bound. An axis of one slice has no faces.
    """

    value: int
    voxels: int
    volume_ml: float
    mean_intensity: dict[str, float]
    touches_border: bool


def describe_structures(
    image: Volume, label_zyx: np.ndarray, labels: Mapping[str, int], channels: Sequence[str]
) -> dict[str, Structure]:
    """Return every structure of `labels` but the background by name, present or not.

    Args:
        image: The scan in physical units.
        label_zyx: Label values on its grid.
        labels: Structure name to value.
        channels: Names of the image's channels.
    """
    values = max(labels.values()) + 1
    voxels = np.zeros(values, np.int64)
    sums = np.zeros((len(channels), values))
    for z, plane in enumerate(label_zyx):  # a plane at a time: counting makes copies
        flat = plane.ravel()
        voxels += np.bincount(flat, minlength=values)
        for total, channel in zip(sums, image.array, strict=True):
            total += np.bincount(flat, weights=channel[z].ravel(), minlength=values)
    at_border = _values_on_faces(label_zyx)
    voxel_ml = prod(image.spacing_mm) / 1000
    return {
        name: Structure(
            value=value,
            voxels=int(voxels[value]),
            volume_ml=float(voxels[value] * voxel_ml),
            mean_intensity={
                channel: float(total[value] / voxels[value])
                for channel, total in zip(channels, sums, strict=True)
                if voxels[value]
            },
            touches_border=value in at_border,
        )
        for name, value in labels.items()
        if value != 0
    }


def _values_on_faces(label_zyx: np.ndarray) -> set[int]:
    faces = [
        label_zyx.take(index, axis)
        for axis in range(3)
        if label_zyx.shape[axis] > 1
        for index in (0, -1)
    ]
    return {int(value) for face in faces for value in np.unique(face)}
