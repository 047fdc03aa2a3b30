"""The label at points between two planes of logits: trilinear interpolation, then the decision.

Outputs that exclude one another are decided by arg-max. Regions, which may overlap, are painted one
over the other where their logit is positive. No map of an output is ever made at the resolution of
the result. On a CPU one kernel does all for a voxel at a time, on other devices torch does a block
of rows at a time; both give the same labels, bit for bit those of interpolating every output
everywhere. Which planes exist is the business of `sweep`, which points of the result lie between
them that of `export`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from stunet.io.voxels import label_dtype
from stunet.transforms.spline import source_positions

# A lead of 2^-19 of the largest logit, 16 times the rounding of float32, outlives interpolation,
# which rounds six times.
SAFE_LEAD = 2.0**-19
# A positive logit stays positive in a weighted mean of positive ones unless products vanish.
SAFE_LOGIT = np.float32(2.0**-100)
BLOCK_ELEMENTS = 32 * 2**20  # logits interpolated at once off the CPU: 128 MiB


class Line(NamedTuple):
    """Where the points of one axis of the result lie on the axis of the source.

    The value at point i is `(1 - weight[i]) * source[lower[i]] + weight[i] * source[upper[i]]`.
    """

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray  # float32


def interpolation_line(length_from: int, length_to: int) -> Line:
    """Return the points of an axis whose two grids cover the same field of view."""
    positions = source_positions(length_from, length_to).clip(0, length_from - 1)
    lower = positions.astype(np.int64)
    weight = (positions - lower).astype(np.float32)
    return Line(lower, np.where(weight > 0, lower + 1, lower), weight)


Paints = tuple[int, ...]
"""The label value of each region, in the order of painting; empty: the largest logit decides."""


@dataclass(frozen=True)
class Plane:
    """Logits of one plane of the source.

    Attributes:
        logits_kab: (K, A, B) float32.
        paints: What the outputs are.
    """

    logits_kab: Tensor
    paints: Paints = ()

    @property
    def largest_label(self) -> int:
        """The largest value that can come out."""
        return max(self.paints) if self.paints else len(self.logits_kab) - 1

    @cached_property
    def logits_abk(self) -> np.ndarray:
        """On the host, the outputs of a voxel side by side."""
        k, a, b = self.logits_kab.shape
        turned = np.empty((a, b, k), np.float32)
        _put_classes_last(self.logits_kab.numpy(), turned)
        return turned

    @cached_property
    def peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """What wins (A, B), and whether safely: then it wins wherever all voxels around say so."""
        shape = self.logits_abk.shape[:2]
        winner, safe = np.empty(shape, np.int32), np.empty(shape, np.bool_)
        if self.paints:
            _find_painted(self.logits_abk, SAFE_LOGIT, winner, safe)
        else:
            _find_peaks(self.logits_abk, np.float32(SAFE_LEAD), winner, safe)
        return winner, safe


def labels_between(
    below: Plane, above: Plane, weights: Sequence[float], rows: Line, columns: Line
) -> np.ndarray:
    """Return the label at a grid of points between two planes.

    Args:
        below: Plane of weight `1 - weights[i]`.
        above: Plane of weight `weights[i]` of the same outputs; may be the same.
        weights: One per plane of the result, in [0, 1].
        rows: The points along A.
        columns: The points along B.

    Returns:
        (len(weights), rows, columns) uint8, uint16 where a label can be above 255. At equal logits
        the smaller class wins; a region is painted where its logit is above 0.
    """
    shape = (len(weights), len(rows.lower), len(columns.lower))
    labels = np.empty(shape, label_dtype(below.largest_label))
    if not below.logits_kab.is_cpu:
        for weight, out in zip(weights, labels, strict=True):
            _label_rows(below, above, weight, rows, columns, out)
        return labels
    decided = _decided_cells(*below.peaks, *above.peaks)
    # None is a type of its own to the compiler, which then leaves the painting out.
    paints = np.array((0, *below.paints), np.int32) if below.paints else None
    for weight, out in zip(weights, labels, strict=True):
        _label_points(
            below.logits_abk, above.logits_abk, np.float32(weight), rows, columns, decided, paints,
            out,
        )  # fmt: skip
    return labels


def _label_rows(
    below: Plane, above: Plane, weight: float, rows: Line, columns: Line, out: np.ndarray
) -> None:
    """The same on any device: products and sums in the order of `_label_points`, none fused."""
    first_kab, second_kab = below.logits_kab, above.logits_kab
    device, (classes, _, b) = first_kab.device, first_kab.shape
    x0, x1 = (torch.from_numpy(index).to(device) for index in columns[:2])
    wx = torch.from_numpy(columns.weight).to(device)
    wz = torch.tensor(weight, dtype=torch.float32, device=device)
    block = max(1, BLOCK_ELEMENTS // (max(b, len(columns.lower)) * classes))
    for first in range(0, len(out), block):
        here = slice(first, first + block)
        y0, y1 = (torch.from_numpy(index[here]).to(device) for index in rows[:2])
        wy = torch.from_numpy(rows.weight[here]).to(device)[:, None]
        front = first_kab[:, y0] * (1 - wz) + second_kab[:, y0] * wz
        back = first_kab[:, y1] * (1 - wz) + second_kab[:, y1] * wz
        line = front * (1 - wy) + back * wy
        block_kab = line[..., x0] * (1 - wx) + line[..., x1] * wx
        out[here] = _decide(block_kab, below.paints).cpu().numpy()


def _decide(logits_kab: Tensor, paints: Paints) -> Tensor:
    if not paints:
        return logits_kab.argmax(0)
    label_ab = torch.zeros(logits_kab.shape[1:], dtype=torch.int32, device=logits_kab.device)
    for logits_ab, value in zip(logits_kab, paints, strict=True):
        label_ab.masked_fill_(logits_ab > 0, value)
    return label_ab


# Compiled; no sum or product is fused or reordered. The compiler turns a maximum of integers into
# vector instructions, one of floats not: hence floats are compared by their bits, which for IEEE
# numbers is the same order once those of negative ones are flipped.

FLIP = np.int32(0x7FFFFFFF)
ONE = np.float32(1)
ZERO = np.float32(0)  # added, it makes -0 the same as 0


@njit(cache=True, nogil=True)
def _put_classes_last(logits_kab, out_abk):  # type: ignore[no-untyped-def]  # pragma: no cover
    K, A, B = logits_kab.shape
    for a in range(A):
        for k in range(K):
            for b in range(B):
                out_abk[a, b, k] = logits_kab[k, a, b]


@njit(cache=True, nogil=True)
def _key(bits, k):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Larger for a larger float; at the same float larger for a smaller class k."""
    return (np.int64(bits ^ ((bits >> np.int32(31)) & FLIP)) << 32) - k


@njit(cache=True, nogil=True)
def _winner(bits):  # type: ignore[no-untyped-def]  # pragma: no cover
    best = _key(bits[0], 0)
    for k in range(bits.size):
        best = max(best, _key(bits[k], k))
    return -best & 0xFFFFFFFF


@njit(cache=True, nogil=True)
def _find_peaks(logits, share, winner, safe):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Safe: the lead over every class of smaller index is above `share` of the winning logit.

    Larger classes need no lead: rounding keeps order up to ties, and the smaller class wins those.
    """
    values = np.empty(logits.shape[2], np.float32)
    bits = values.view(np.int32)
    for a in range(logits.shape[0]):
        for b in range(logits.shape[1]):
            for k in range(values.size):
                values[k] = logits[a, b, k] + ZERO
            k = _winner(bits)
            winner[a, b] = k
            safe[a, b] = True
            if k > 0:
                lead = values[k] - values[_winner(bits[:k])]
                safe[a, b] = lead > share * (abs(values[k]) + lead)


@njit(cache=True, nogil=True)
def _painted(values):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The last region with a positive logit, counted from 1; 0 if there is none."""
    for k in range(values.size, 0, -1):
        if values[k - 1] > ZERO:
            return k
    return 0


@njit(cache=True, nogil=True)
def _find_painted(logits, least, winner, safe):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Safe: the logit of the region that wins is above `least`.

    Those painted later need no margin: a mean of what is not positive is not, rounded or not.
    """
    for a in range(logits.shape[0]):
        for b in range(logits.shape[1]):
            k = _painted(logits[a, b])
            winner[a, b] = k
            safe[a, b] = k == 0 or logits[a, b, k - 1] > least


@njit(cache=True, nogil=True)
def _decided_cells(winner0, safe0, winner1, safe1):  # type: ignore[no-untyped-def]  # pragma: no cover
    """What wins in all of a cell, named by its smallest corner, or -1.

    What leads at eight corners leads at every weighted mean of them.
    """
    decided = np.full(winner0.shape, -1, np.int32)
    A, B = winner0.shape
    for a in range(A):
        a1 = min(a + 1, A - 1)
        for b in range(B):
            b1 = min(b + 1, B - 1)
            k = winner0[a, b]
            if (
                winner0[a, b1] == k and winner0[a1, b] == k and winner0[a1, b1] == k
                and winner1[a, b] == k and winner1[a, b1] == k
                and winner1[a1, b] == k and winner1[a1, b1] == k
                and safe0[a, b] and safe0[a, b1] and safe0[a1, b] and safe0[a1, b1]
                and safe1[a, b] and safe1[a, b1] and safe1[a1, b] and safe1[a1, b1]
            ):  # fmt: skip
                decided[a, b] = k
    return decided


@njit(cache=True, nogil=True)
def _label_points(below, above, wz, rows, columns, decided, paints, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    _, B, K = below.shape
    line = np.empty((B, K), np.float32)  # a row of the result, still on the source's columns
    line_of = np.full(B, -1)  # the row that each of its columns was computed for
    values = np.empty(K, np.float32)
    bits = values.view(np.int32)
    for i in range(out.shape[0]):
        y0, y1, wy = rows.lower[i], rows.upper[i], rows.weight[i]
        for j in range(out.shape[1]):
            x0, x1 = columns.lower[j], columns.upper[j]
            k = decided[y0, x0]
            if k >= 0:
                out[i, j] = k if paints is None else paints[k]
                continue
            for x in (x0, x1):
                if line_of[x] != i:
                    _fill(below[y0, x], below[y1, x], above[y0, x], above[y1, x], wz, wy, line[x])
                    line_of[x] = i
            _interpolate(line[x0], line[x1], columns.weight[j], values)
            out[i, j] = _winner(bits) if paints is None else paints[_painted(values)]


@njit(cache=True, nogil=True)
def _fill(below0, below1, above0, above1, wz, wy, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(out.size):
        front = below0[k] * (ONE - wz) + above0[k] * wz
        back = below1[k] * (ONE - wz) + above1[k] * wz
        out[k] = front * (ONE - wy) + back * wy


@njit(cache=True, nogil=True)
def _interpolate(left, right, wx, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(out.size):
        out[k] = left[k] * (ONE - wx) + right[k] * wx + ZERO
