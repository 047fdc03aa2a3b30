"""Label maps under an affine resample: a voxel takes the label with the largest trilinear weight.

This is what the usual loop computes (a one-hot map per label, each resampled trilinearly, arg-max),
in one pass whose cost does not depend on the number of labels. Not for probabilities or images.
"""

from __future__ import annotations

import numba
import numpy as np

from stunet.transforms.spatial import Sampling


def vote_labels(window_zyx: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Resample a label window at the voxels of a patch.

    The eight voxels around a source position vote with their trilinear weights (float32, summed in
    z, y, x corner order). The label with the largest sum wins; at a tie the smaller value, as in
    arg-max over ascending labels. Most cells hold one label and need no vote.

    Args:
        window_zyx: uint8 or uint16 of `sampling.window_shape`, 0 where the box leaves the volume.
        sampling: The one that the image was resampled with.

    Returns:
        int16 (D, H, W) of `sampling.patch_size`.
    """
    assert window_zyx.shape == sampling.window_shape, "the kernel does not check bounds"
    patch = np.empty(sampling.patch_size, np.int16)
    _vote(np.ascontiguousarray(window_zyx), sampling.matrix, sampling.offset, patch)
    return patch


@numba.njit(cache=True)
def _vote(window: np.ndarray, matrix: np.ndarray, offset: np.ndarray, patch: np.ndarray) -> None:
    D, H, W = patch.shape
    labels = np.empty(8, window.dtype)
    weights = np.empty(8, np.float32)
    for z in range(D):
        for y in range(H):
            row = matrix[:, 0] * z + matrix[:, 1] * y + offset
            for x in range(W):
                pz = row[0] + matrix[0, 2] * x
                py = row[1] + matrix[1, 2] * x
                px = row[2] + matrix[2, 2] * x
                k, j, i = int(pz), int(py), int(px)  # not negative inside the window: the floor
                cell = window[k : k + 2, j : j + 2, i : i + 2]
                if _uniform(cell):
                    patch[z, y, x] = cell[0, 0, 0]
                else:
                    fz, fy, fx = np.float32(pz - k), np.float32(py - j), np.float32(px - i)
                    _ballot(cell, fz, fy, fx, labels, weights)
                    patch[z, y, x] = _winner(labels, weights)


@numba.njit(cache=True)
def _uniform(cell: np.ndarray) -> bool:
    v = cell[0, 0, 0]
    return (
        cell[0, 0, 1] == v
        and cell[0, 1, 0] == v
        and cell[0, 1, 1] == v
        and cell[1, 0, 0] == v
        and cell[1, 0, 1] == v
        and cell[1, 1, 0] == v
        and cell[1, 1, 1] == v
    )


@numba.njit(cache=True)
def _ballot(
    cell: np.ndarray,
    fz: np.float32,
    fy: np.float32,
    fx: np.float32,
    labels: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Write the label and the trilinear weight of the eight corners in z, y, x order."""
    one = np.float32(1)
    n = 0
    for k in range(2):
        for j in range(2):
            for i in range(2):
                labels[n] = cell[k, j, i]
                weight = (fz if k else one - fz) * (fy if j else one - fy)
                weights[n] = weight * (fx if i else one - fx)
                n += 1


@numba.njit(cache=True)
def _winner(labels: np.ndarray, weights: np.ndarray) -> int:
    best_label, best_sum = labels[0], np.float32(-1)
    for a in range(8):
        total = np.float32(0)
        for b in range(8):
            if labels[b] == labels[a]:
                total += weights[b]
        if total > best_sum or (total == best_sum and labels[a] < best_label):
            best_label, best_sum = labels[a], total
    return best_label
