"""Bring a label map onto another voxel grid in one pass, whatever the number of labels.

Images go through `resample.py`; `spline.py` defines how the two grids lie on each other.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stunet.io.spill import Allocate, copy_into, planes_of, release
from stunet.transforms.spline import nearest_taps, source_positions
from stunet.types import Size3

TIE = 1e-6  # votes closer than this count as equal, so that rounding never decides


def resample_label(
    label_zyx: np.ndarray,
    shape_to: Size3,
    nearest_axis: int | None = None,
    allocate: Allocate = np.empty,
) -> np.ndarray:
    """Give every target voxel the label that weighs most among its eight source neighbours.

    Each neighbour votes for its label with its trilinear weight. This is the arg-max of the
    trilinearly interpolated indicator images of all labels, without making any of them: the cost
    does not depend on how many labels there are. A tie goes to the label of the nearest source
    voxel if that is among the best, otherwise to the smallest of the best.

    Across thick slices only the nearest slice votes, as in `resample_image`.

    Args:
        label_zyx: (Z, Y, X) integers.
        shape_to: Shape of the result, z y x.
        nearest_axis: The axis across thick slices, from `slice_axis`, or None.
        allocate: Makes the result; a `Spill` keeps a large one out of memory.

    Returns:
        (*shape_to,) in the dtype of the input.

    Source: nnU-Net v2 default resampling of segmentations (order 1 per label; order 0 across thick
    slices), equal to it on every voxel where one label holds the majority.
    """
    result = allocate(shape_to, label_zyx.dtype)
    if label_zyx.shape == tuple(shape_to):
        copy_into(result, label_zyx)
        return result
    lower, upper, weight = zip(
        *(
            _nearest(*edges) if axis == nearest_axis else _neighbours(*edges)
            for axis, edges in enumerate(zip(label_zyx.shape, shape_to, strict=True))
        ),
        strict=True,
    )
    plane_voxels = max(label_zyx.size / len(result), result[0].size)
    for planes in planes_of(len(result), plane_voxels):
        first, last = lower[0][planes.start], upper[0][planes.stop - 1]
        _vote(
            np.ascontiguousarray(label_zyx[first : last + 1]),
            (lower[0][planes] - first, *lower[1:]),
            (upper[0][planes] - first, *upper[1:]),
            (weight[0][planes], *weight[1:]),
            np.asarray(result[planes]),
        )
        release(label_zyx)
        release(result)
    return result


def _neighbours(edge_from: int, edge_to: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper source index of each target sample, and the weight of the upper one."""
    positions = source_positions(edge_from, edge_to).clip(0, edge_from - 1)
    lower = np.floor(positions).astype(np.intp)
    return lower, np.minimum(lower + 1, edge_from - 1), positions - lower


def _nearest(edge_from: int, edge_to: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_neighbours`, with all weight on the nearest source index."""
    nearest = nearest_taps(edge_from, edge_to).first
    return nearest, nearest, np.zeros(edge_to)


@njit(cache=True)
def _vote(label, lower, upper, weight, result):  # type: ignore[no-untyped-def]  # pragma: no cover
    labels = np.empty(8, dtype=label.dtype)
    weights = np.empty(8, dtype=np.float64)
    for z in range(result.shape[0]):
        z0, z1, wz = lower[0][z], upper[0][z], weight[0][z]
        for y in range(result.shape[1]):
            y0, y1, wy = lower[1][y], upper[1][y], weight[1][y]
            for x in range(result.shape[2]):
                x0, x1, wx = lower[2][x], upper[2][x], weight[2][x]
                labels[0] = label[z0, y0, x0]
                labels[1] = label[z0, y0, x1]
                labels[2] = label[z0, y1, x0]
                labels[3] = label[z0, y1, x1]
                labels[4] = label[z1, y0, x0]
                labels[5] = label[z1, y0, x1]
                labels[6] = label[z1, y1, x0]
                labels[7] = label[z1, y1, x1]
                uniform = True
                for k in range(1, 8):
                    uniform &= labels[k] == labels[0]
                if uniform:
                    result[z, y, x] = labels[0]
                    continue
                for k in range(8):
                    weights[k] = (
                        (wz if k & 4 else 1.0 - wz)
                        * (wy if k & 2 else 1.0 - wy)
                        * (wx if k & 1 else 1.0 - wx)
                    )
                nearest = 4 * (wz >= 0.5) + 2 * (wy >= 0.5) + (wx >= 0.5)
                result[z, y, x] = _heaviest(labels, weights, labels[nearest])


@njit(cache=True)
def _heaviest(labels, weights, preferred):  # type: ignore[no-untyped-def]  # pragma: no cover
    best_label = preferred
    best = 0.0
    for k in range(8):
        if labels[k] == preferred:
            best += weights[k]
    for j in range(8):
        if labels[j] == best_label:
            continue
        votes = 0.0
        for k in range(8):
            if labels[k] == labels[j]:
                votes += weights[k]
        tied = abs(votes - best) <= TIE
        smaller = labels[j] < best_label and best_label != preferred
        if votes > best + TIE or (tied and smaller):
            best_label, best = labels[j], votes
    return best_label
