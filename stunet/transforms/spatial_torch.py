"""The affine resample of image and labels in plain torch, for windows on the training device.

Twin of the compiled loops in `stunet.transforms.spatial` and `label_vote`, which are faster on a
CPU. Each number comes from the same operations in the same order and precision, one rounding each,
so both give the same bits, labels at ties included; nothing here may be fused or reordered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from stunet.transforms.spatial import Sampling

# Voxels worked on at a time; some 100 bytes of intermediate results each.
_VOXELS_CPU = 1 << 17  # they stay in the cache
_VOXELS_GPU = 1 << 21  # a patch of 128^3 at once


def resample_window(
    image_czyx: Tensor, label_zyx: Tensor, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Evaluate a window at the voxels of a patch: image trilinearly, labels by vote.

    Args:
        image_czyx: float32 (C, *sampling.window_shape).
        label_zyx: uint8 or int16 of `sampling.window_shape`.
        sampling: From `stunet.transforms.spatial.plan_sampling`.

    Returns:
        float32 (C, D, H, W) and int16 (D, H, W) of `sampling.patch_size`, where the window lies.
    """
    assert image_czyx.shape[1:] == label_zyx.shape == sampling.window_shape
    image_cdhw = image_czyx.new_empty((len(image_czyx), *sampling.patch_size))
    label_dhw = label_zyx.new_empty(sampling.patch_size, dtype=torch.int16)
    channels = [channel.reshape(-1) for channel in image_czyx]
    labels = label_zyx.reshape(-1)
    for planes, cells in _slabs(sampling, image_czyx.device):
        for values, patch in zip(channels, image_cdhw, strict=True):
            patch[planes] = _interpolate(values, cells)
        label_dhw[planes] = _vote(labels, cells)
    return image_cdhw, label_dhw


@dataclass(frozen=True)
class _Cells:
    """The cells of eight source voxels that the voxels of some planes of a patch lie in.

    Attributes:
        first: int64 (d, H, W), flat index of the corner with the smallest coordinates.
        steps: From it to the eight corners in z, y, x order.
        fractions: Three of float32 (d, H, W): how far into the cell, along z, y, x.
    """

    first: Tensor
    steps: list[int]
    fractions: list[Tensor]


def _slabs(sampling: Sampling, device: torch.device) -> Iterator[tuple[slice, _Cells]]:
    depth, height, width = sampling.patch_size
    voxels = _VOXELS_GPU if device.type == "cuda" else _VOXELS_CPU
    count = max(1, voxels // (height * width))
    for start in range(0, depth, count):
        planes = slice(start, min(start + count, depth))
        yield planes, _cells(sampling, planes, device)


def _cells(sampling: Sampling, planes: slice, device: torch.device) -> _Cells:
    _, height, width = sampling.patch_size
    z, y, x = (
        torch.arange(*span, dtype=torch.float64, device=device)
        for span in ((planes.start, planes.stop), (0, height), (0, width))
    )
    corners, fractions = [], []
    for (to_z, to_y, to_x), offset in zip(
        sampling.matrix.tolist(), sampling.offset.tolist(), strict=True
    ):
        row = (to_z * z[:, None] + to_y * y) + offset
        place = row[:, :, None] + to_x * x
        corner = place.long()  # not negative inside the window: the floor
        corners.append(corner)
        fractions.append((place - corner).float())
    _, rows, columns = sampling.window_shape
    first = (corners[0] * rows + corners[1]) * columns + corners[2]
    steps = [(k * rows + j) * columns + i for k, j, i in product((0, 1), repeat=3)]
    return _Cells(first, steps, fractions)


def _interpolate(values: Tensor, cells: _Cells) -> Tensor:
    fz, fy, fx = cells.fractions

    def along_x(edge: int) -> Tensor:
        low, high = (values[cells.first + cells.steps[2 * edge + i]] for i in (0, 1))
        return _mix(low, high, fx)

    below, above = (_mix(along_x(2 * k), along_x(2 * k + 1), fy) for k in (0, 1))
    return _mix(below, above, fz)


def _mix(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    return a + fraction * (b - a)  # torch.lerp rounds otherwise


def _vote(labels: Tensor, cells: _Cells) -> Tensor:
    """int16 (d, H, W); most cells hold one label and need no vote."""
    corners = [labels[cells.first + step] for step in cells.steps]
    differs = corners[1] != corners[0]
    for corner in corners[2:]:
        differs |= corner != corners[0]
    winner = corners[0].to(torch.int16)
    where = differs.nonzero(as_tuple=True)
    if len(where[0]):
        candidates = [corner[where].to(torch.int16) for corner in corners]
        winner[where] = _largest(candidates, _weights([f[where] for f in cells.fractions]))
    return winner


def _weights(fractions: list[Tensor]) -> list[Tensor]:
    """The trilinear weights of the eight corners in z, y, x order."""
    sides = [(1 - fraction, fraction) for fraction in fractions]
    return [z * y * x for z, y, x in product(*sides)]


def _largest(labels: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The label with the largest sum of weights; at a tie the smallest."""
    best_label, best_sum = labels[0], torch.full_like(weights[0], -1)
    for label in labels:
        total = torch.zeros_like(best_sum)
        for other, weight in zip(labels, weights, strict=True):
            total += weight * (other == label)
        better = (total > best_sum) | ((total == best_sum) & (label < best_label))
        best_label = torch.where(better, label, best_label)
        best_sum = torch.where(better, total, best_sum)
    return best_label
