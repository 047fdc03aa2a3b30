"""Our side of bringing label maps to another grid, and where any method must agree."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from scipy import ndimage

from stunet.transforms.resample_label import resample_label
from stunet.types import Size3

MAJORITY = 0.5 + 1e-6  # of the trilinear weight, beyond what rounding could turn


def resampling(label: str, shape: Size3, out: str) -> Callable[[], None]:
    """Resample the label map in the file `label` to `shape` and save it to `out`."""
    label_zyx = np.load(label)

    def turn() -> None:
        np.save(out, resample_label(label_zyx, shape))

    return turn


def one_by_one(label: str, shape: Size3, out: str) -> Callable[[], None]:
    """Resample each label's mask linearly and take the largest: what our kernel replaces."""
    label_zyx = np.load(label)
    zoom = [new / old for new, old in zip(shape, label_zyx.shape, strict=True)]

    def turn() -> None:
        best = np.zeros(shape, np.float32)
        result = np.zeros(shape, label_zyx.dtype)
        for value in np.unique(label_zyx):
            mask = (label_zyx == value).astype(np.float32)
            share = ndimage.zoom(mask, zoom, order=1, mode="nearest", grid_mode=True)
            better = share > best
            result[better], best[better] = value, share[better]
        np.save(out, result)

    return turn


def majority_disagreements(source: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> str:
    """Compare two resampled maps where one label holds most of the trilinear weight.

    Written apart from the kernel: the weight of a label is summed over the eight neighbours with
    numpy, slab by slab.

    Returns:
        One phrase for a row's note.
    """
    majority = differing = 0
    for z in range(ours.shape[0]):
        mine, other = ours[z], theirs[z]
        shares = [_share(source, chosen, z, ours.shape) for chosen in (mine, other)]
        held = np.maximum(*shares) > MAJORITY
        majority += int(held.sum())
        differing += int((held & (mine != other)).sum())
    equal = float((ours == theirs).mean())
    return (
        f"{differing} of {majority} majority voxels differ; {majority / ours.size:.2%} of voxels "
        f"have a majority, {equal:.4%} of all are equal"
    )


def _share(source: np.ndarray, chosen: np.ndarray, z: int, shape: tuple[int, ...]) -> np.ndarray:
    """Trilinear weight of the chosen labels at the voxels of slice z of the target grid."""
    ranges = (np.array([z]), np.arange(shape[1]), np.arange(shape[2]))
    corners = []
    for axis, index in enumerate(ranges):
        side = source.shape[axis]
        position = ((index + 0.5) * side / shape[axis] - 0.5).clip(0, side - 1)
        low = np.floor(position).astype(int)
        fraction = position - low
        corners.append(((low, 1 - fraction), (np.minimum(low + 1, side - 1), fraction)))
    share = np.zeros(chosen.shape)
    for (k, wz), (j, wy), (i, wx) in product(*corners):
        weight = wz[:, None, None] * wy[:, None] * wx
        share += (weight * (source[np.ix_(k, j, i)] == chosen))[0]
    return share
