"""Exact distance from every point of one surface to the nearest point of another.

Points are voxel corners, distances are in mm. A distance transform is separable, so it is made one
plane at a time and only between the rows that are asked about: memory grows with the surfaces, not
with the volume, and time with the box around them, whether they lie close or far apart.
"""

from __future__ import annotations

import numba
import numpy as np

from stunet.types import Spacing


def nearest_distances(query: np.ndarray, target: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Distance from each query corner to the nearest target corner.

    Args:
        query: (n, 3) int32 z y x in raster order.
        target: (m, 3) int32 z y x in raster order.
        spacing_mm: Voxel spacing z y x.

    Returns:
        (n,) float64 in mm, inf if there is no target.

    Source: lower envelope of parabolas along one axis, Felzenszwalb and Huttenlocher, Distance
    Transforms of Sampled Functions, Theory of Computing 2012.
    """
    squared = np.full(len(query), np.inf)
    if len(query) == 0 or len(target) == 0:
        return squared
    low = target.min(0)
    _, H, W = target.max(0) - low + 1
    start, column_z = _columns(target - low, H, W)
    _sweep(query - low, column_z, start, (W, H), spacing_mm, squared)
    return np.sqrt(squared)


@numba.njit(cache=True)
def _columns(target: np.ndarray, H: int, W: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort targets into columns c = x * H + y: where each starts, and the ascending z of all."""
    start = np.zeros(W * H + 1, np.int64)
    for t in range(len(target)):
        start[target[t, 2] * H + target[t, 1] + 1] += 1
    start = np.cumsum(start)
    cursor = start.copy()
    column_z = np.empty(len(target), np.int64)
    for t in range(len(target)):  # in raster order, so z ascends
        c = target[t, 2] * H + target[t, 1]
        column_z[cursor[c]] = target[t, 0]
        cursor[c] += 1
    return start, column_z


@numba.njit(cache=True)
def _sweep(
    query: np.ndarray,
    column_z: np.ndarray,
    start: np.ndarray,
    shape_wh: tuple[int, int],
    spacing_mm: Spacing,
    squared: np.ndarray,
) -> None:
    """Fill `squared` plane by plane in ascending z; positions count from the box of the targets."""
    W, H = shape_wh
    cursor = start[:-1].copy()
    along_z = np.empty((W, H))
    first = 0
    while first < len(query):
        z, last = query[first, 0], first
        while last < len(query) and query[last, 0] == z:
            last += 1
        _along_z(z, column_z, start, cursor, spacing_mm[0], along_z)
        y_low, y_high = query[first, 1], query[last - 1, 1]  # raster order
        along_yz = np.empty((y_high - y_low + 1, W))
        _along_y(along_z, y_low, spacing_mm[1], along_yz)
        for q in range(first, last):
            row = along_yz[query[q, 1] - y_low]
            squared[q] = _along_x(row, query[q, 2], spacing_mm[2])
        first = last


@numba.njit(cache=True)
def _along_z(
    z: int,
    column_z: np.ndarray,
    start: np.ndarray,
    cursor: np.ndarray,
    side_mm: float,
    along_z: np.ndarray,
) -> None:
    """Squared distance from height z to the nearest target of each column, inf if it has none."""
    H = along_z.shape[1]
    for c in range(len(cursor)):
        end = start[c + 1]
        while cursor[c] < end and column_z[cursor[c]] < z:
            cursor[c] += 1
        steps = np.inf
        if cursor[c] < end:
            steps = column_z[cursor[c]] - z
        if cursor[c] > start[c]:
            steps = min(steps, z - column_z[cursor[c] - 1])
        along_z[c // H, c % H] = (steps * side_mm) ** 2


@numba.njit(cache=True)
def _along_y(along_z: np.ndarray, y_low: int, side_mm: float, along_yz: np.ndarray) -> None:
    """Squared distance within the plane of each x, for the rows from y_low on."""
    W, H = along_z.shape
    site, reign = np.empty(H, np.int64), np.empty(H)
    for x in range(W):
        sites = _lower_envelope(along_z[x], side_mm, site, reign)
        s = 0
        for row in range(len(along_yz)):
            y = y_low + row
            while s + 1 < sites and reign[s + 1] < y:
                s += 1
            along_yz[row, x] = np.inf
            if sites > 0:
                along_yz[row, x] = along_z[x, site[s]] + ((y - site[s]) * side_mm) ** 2


@numba.njit(cache=True)
def _lower_envelope(height: np.ndarray, side_mm: float, site: np.ndarray, reign: np.ndarray) -> int:
    """Count the parabolas height[v] + ((y - v) side)2 that are lowest somewhere.

    Their vertices v go to `site`, the y from where each is lowest to `reign`, both ascending.
    """
    sites = 0
    for y in range(len(height)):
        if height[y] == np.inf:
            continue
        begin = -np.inf
        while sites > 0:
            v = site[sites - 1]
            begin = ((height[y] - height[v]) / ((y - v) * side_mm * side_mm) + y + v) / 2
            if begin > reign[sites - 1]:
                break
            sites -= 1
        site[sites], reign[sites] = y, begin
        sites += 1
    return sites


@numba.njit(cache=True)
def _along_x(row: np.ndarray, x: int, side_mm: float) -> float:
    """Squared distance from x, looking outwards until no step can come nearer."""
    W = len(row)
    best = np.inf
    for step in range(max(0, -x, x - W + 1), max(x, W - 1 - x) + 1):
        reach = (step * side_mm) ** 2
        if reach >= best:
            break
        if 0 <= x - step < W:
            best = min(best, row[x - step] + reach)
        if 0 <= x + step < W:
            best = min(best, row[x + step] + reach)
    return best
