"""Interpolation along one axis as a weighted sum of neighbouring samples.

A cubic spline needs coefficients that depend on every sample of a line; their dependence fades by
3.7 per voxel, so 12 voxels on either side give them to float32. A target sample is then a fixed
weighted sum of 28 neighbours: any part of a volume can be computed from its surroundings alone and
is bit for bit the same, and the sums run six times as fast as a recursive filter. Not for
grids that are turned against each other (`spatial.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from stunet.types import Size3

POLE = np.sqrt(3.0) - 2.0  # of the cubic B-spline's inverse filter
REACH = 12  # voxels; POLE**12 is 1.4e-7, the precision of float32
TILE = 64  # lines that are summed together when they run along the last axis
BLOCK = 4096  # neighbouring lines, otherwise: 28 of them stay in the second-level cache


@dataclass(frozen=True, eq=False)
class Taps:
    """How one axis is made from another.

    Attributes:
        first: (n,) source index of each target sample's first neighbour, ascending.
        weights: (n, taps) float32; sample i is the sum over k of weights[i, k] * source[first + k].
    """

    first: np.ndarray
    weights: np.ndarray

    def source(self, target: slice) -> slice:
        """The source samples that the target samples of a slice are made of."""
        last = self.first[target.stop - 1] + self.weights.shape[1]
        return slice(int(self.first[target.start]), int(last))

    def part(self, target: slice) -> Taps:
        """The taps of some target samples, counted from the first source sample they need."""
        return Taps(self.first[target] - self.first[target.start], self.weights[target])


def source_positions(edge_from: int, edge_to: int) -> np.ndarray:
    """Where each target sample lies on the source axis, in voxels; up to half a voxel outside."""
    return (np.arange(edge_to) + 0.5) * (edge_from / edge_to) - 0.5


def nearest_taps(edge_from: int, edge_to: int) -> Taps:
    """Take the nearest sample; half-way positions take the upper one."""
    nearest = np.floor(source_positions(edge_from, edge_to) + 0.5).astype(np.intp)
    return Taps(nearest.clip(0, edge_from - 1), np.ones((edge_to, 1), np.float32))


def cubic_taps(edge_from: int, edge_to: int) -> Taps:
    """Interpolate with a cubic spline; beyond its ends the axis goes on with its last samples.

    Source: Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Processing
    Magazine 16(6), 1999.
    """
    positions = source_positions(edge_from, edge_to)
    below = np.floor(positions).astype(np.intp)
    inverse = POLE ** np.abs(np.arange(-REACH, REACH + 1))
    inverse /= inverse.sum()
    full = np.zeros((edge_to, inverse.size + 3))
    for shift, weight in enumerate(_cubic_weights(positions - below)):
        full[:, shift : shift + inverse.size] += weight[:, None] * inverse
    neighbours = (below - 1 - REACH)[:, None] + np.arange(full.shape[1])
    taps = min(full.shape[1], edge_from)
    first = neighbours[:, 0].clip(0, edge_from - taps)
    weights = np.zeros((edge_to, taps))
    rows = np.arange(edge_to)[:, None]
    np.add.at(weights, (rows, neighbours.clip(0, edge_from - 1) - first[:, None]), full)
    return Taps(first, weights.astype(np.float32))


def _cubic_weights(fraction: np.ndarray) -> np.ndarray:
    """Cubic B-spline at the four samples around a point; (n,) -> (4, n)."""
    left, right = fraction, 1.0 - fraction
    return np.stack(
        [
            right**3 / 6,
            (left**2 * (left - 2) * 3 + 4) / 6,
            (right**2 * (right - 2) * 3 + 4) / 6,
            left**3 / 6,
        ]
    )


def apply_taps(volume_zyx: np.ndarray, axis: int, taps: Taps) -> np.ndarray:
    """Make an axis of a volume anew.

    Args:
        volume_zyx: (Z, Y, X) numbers.
        axis: Which axis.
        taps: For this axis.

    Returns:
        float32, `len(taps.first)` samples along the axis.
    """
    source = np.ascontiguousarray(volume_zyx)
    z, y, x = shape = _with_edge(volume_zyx.shape, axis, len(taps.first))
    result = np.empty(shape, dtype=np.float32)
    if axis == 2:
        lines = source.reshape(z * y, -1)
        _sum_within_lines(lines, taps.first, taps.weights, result.reshape(-1, x))
    elif axis == 1:
        _sum_across_lines(source, taps.first, taps.weights, result)
    else:
        flat = source.reshape(1, len(source), -1)
        _sum_across_lines(flat, taps.first, taps.weights, result.reshape(1, z, -1))
    return result


def _with_edge(shape: tuple[int, ...], axis: int, edge: int) -> Size3:
    z, y, x = (edge if place == axis else side for place, side in enumerate(shape))
    return (z, y, x)


@njit(cache=True)
def _sum_across_lines(  # type: ignore[no-untyped-def]
    source, first, weights, result
):  # pragma: no cover - compiled
    """Along the middle axis of `source` (outer, n, inner)."""
    for outer in range(result.shape[0]):
        for start in range(0, result.shape[2], BLOCK):
            stop = min(start + BLOCK, result.shape[2])
            _weigh_rows(source[outer], first, weights, result[outer], start, stop)


@njit(cache=True)
def _sum_within_lines(  # type: ignore[no-untyped-def]
    source, first, weights, result
):  # pragma: no cover - compiled
    """Along the last axis of `source` (lines, n), by turning some lines at a time."""
    turned = np.empty((source.shape[1], TILE), np.float32)
    sums = np.empty((result.shape[1], TILE), np.float32)
    for start in range(0, result.shape[0], TILE):
        lines = min(TILE, result.shape[0] - start)
        for line in range(lines):
            for i in range(source.shape[1]):
                turned[i, line] = source[start + line, i]
        _weigh_rows(turned, first, weights, sums, 0, TILE)
        for line in range(lines):
            for i in range(result.shape[1]):
                result[start + line, i] = sums[i, line]


@njit(cache=True)
def _weigh_rows(  # type: ignore[no-untyped-def]
    rows, first, weights, result, start, stop
):  # pragma: no cover - compiled
    """result[i] = sum over k of weights[i, k] * rows[first[i] + k] for columns start to stop.

    Four rows at a time, so that sums are written a quarter as often.
    """
    taps, width = weights.shape[1], stop - start
    fours = taps - taps % 4
    for i in range(result.shape[0]):
        out = result[i, start:stop]
        for j in range(width):
            out[j] = np.float32(0)
        for k in range(0, fours, 4):
            w0, w1, w2, w3 = weights[i, k : k + 4]
            row = first[i] + k
            r0, r1 = rows[row, start:stop], rows[row + 1, start:stop]
            r2, r3 = rows[row + 2, start:stop], rows[row + 3, start:stop]
            for j in range(width):
                low = w0 * np.float32(r0[j]) + w1 * np.float32(r1[j])
                high = w2 * np.float32(r2[j]) + w3 * np.float32(r3[j])
                out[j] += low + high
        for k in range(fours, taps):
            weight, last = weights[i, k], rows[first[i] + k, start:stop]
            for j in range(width):
                out[j] += weight * np.float32(last[j])
