"""Surface elements ("surfels") of all classes of a label map together, and their areas.

A surfel sits at a corner where eight voxels meet, at least one inside the class and one outside;
its area is that of the marching-cubes surface through the cell between the eight voxel centres.
Distances between surfaces are `stunet/metrics/nearest.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numba
import numpy as np

from stunet.types import Spacing

_Corner = tuple[int, int, int]
_CORNERS: tuple[_Corner, ...] = tuple((z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1))


@dataclass(frozen=True)
class Surfels:
    """The surface of one class.

    Attributes:
        corner: (n, 3) int32 z y x in raster order; corner (z, y, x) lies between the voxels z - 1
            and z, y - 1 and y, x - 1 and x.
        code: (n,) uint8, the index of `surfel_areas`: bit 4 z + 2 y + x is set if voxel (z, y, x),
            each 0 or 1, of the eight around the corner is in the class.
    """

    corner: np.ndarray
    code: np.ndarray


def find_surfels(label_zyx: np.ndarray, classes: Sequence[int]) -> list[Surfels]:
    """Collect the surfels of each class; what lies outside the array is in none.

    Args:
        label_zyx: Integer labels, any integer dtype.
        classes: Different label values to look for; voxels of any other value are in no class.

    Returns:
        A surface per class, in the order given; empty where the class is absent.
    """
    K = len(classes)
    dtype = np.uint8 if K < 256 else np.uint16
    index_of = np.full(max(classes, default=0) + 1, K, dtype)  # K marks what is in no class
    index_of[np.asarray(classes, np.int64)] = np.arange(K)
    padded = np.full([side + 2 for side in label_zyx.shape], K, dtype)
    native = np.ascontiguousarray(label_zyx, label_zyx.dtype.newbyteorder("="))
    _look_up(native, index_of, padded[1:-1, 1:-1, 1:-1])
    cursor = np.zeros(K, np.int64)
    _visit_cells(padded, cursor, np.empty((0, 3), np.int32), np.empty(0, np.uint8))
    ends = np.cumsum(cursor)
    corner, code = np.empty((cursor.sum(), 3), np.int32), np.empty(cursor.sum(), np.uint8)
    starts = ends - cursor
    _visit_cells(padded, starts.copy(), corner, code)
    spans = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
    return [Surfels(corner[span], code[span]) for span in spans]


@numba.njit(cache=True)
def _look_up(label: np.ndarray, index_of: np.ndarray, index: np.ndarray) -> None:
    """Write the place of each voxel's value among the classes; `index` is filled with "none"."""
    D, H, W = label.shape
    for z in range(D):
        for y in range(H):
            for x in range(W):
                value = np.int64(label[z, y, x])
                if 0 <= value < len(index_of):
                    index[z, y, x] = index_of[value]


@numba.njit(cache=True)
def _visit_cells(
    padded: np.ndarray, cursor: np.ndarray, corner: np.ndarray, code: np.ndarray
) -> None:
    """Advance `cursor[k]` for every surfel of class k; write it there unless `code` is empty."""
    D, H, W = padded.shape
    cell = np.empty(8, padded.dtype)
    for z in range(D - 1):
        for y in range(H - 1):
            was_uniform, last = False, padded[z, y, 0]
            for x in range(W):
                value = padded[z, y, x]
                uniform = (
                    padded[z, y + 1, x] == value
                    and padded[z + 1, y, x] == value
                    and padded[z + 1, y + 1, x] == value
                )
                if x > 0 and not (uniform and was_uniform and value == last):
                    for i in range(8):
                        cell[i] = padded[z + (i >> 2), y + (i >> 1 & 1), x - 1 + (i & 1)]
                    _add_surfels(cell, z, y, x - 1, cursor, corner, code)
                was_uniform, last = uniform, value


@numba.njit(cache=True)
def _add_surfels(
    cell: np.ndarray,
    z: int,
    y: int,
    x: int,
    cursor: np.ndarray,
    corner: np.ndarray,
    code: np.ndarray,
) -> None:
    seen = 0
    for i in range(8):
        k = cell[i]
        if seen >> i & 1 or k >= len(cursor):
            continue
        inside = 0
        for j in range(i, 8):
            if cell[j] == k:
                inside |= 1 << j
        seen |= inside
        if len(code):
            corner[cursor[k]] = z, y, x
            code[cursor[k]] = inside
        cursor[k] += 1


def surfel_areas(spacing_mm: Spacing) -> np.ndarray:
    """Area in mm2 of the surface through a cell by its code, (256,) float64.

    The surface meets the edges of the cell half way between a corner inside and one outside. Of
    the two sides, the one with fewer corners decides; each group of its corners that hang
    together by edges of the cell is wrapped by its own piece of surface.

    Source: Lorensen and Cline, Marching Cubes, SIGGRAPH 1987; the areas follow from the geometry
    of its cases and agree with those of DeepMind's `surface-distance`.
    """
    areas = np.zeros(256)
    for code in range(1, 255):
        inside = {corner for i, corner in enumerate(_CORNERS) if code >> i & 1}
        fewer = inside if len(inside) <= 4 else set(_CORNERS) - inside
        areas[code] = sum(_wrapping_area(group, spacing_mm) for group in _groups(fewer))
    return areas


def _groups(corners: Iterable[_Corner]) -> list[set[_Corner]]:
    """Split corners into sets that hang together by edges of the cell."""
    groups: list[set[_Corner]] = []
    for corner in corners:
        touching = [group for group in groups if _edge_axes(corner, group)]
        groups = [group for group in groups if group not in touching]
        groups.append({corner}.union(*touching))
    return groups


def _wrapping_area(group: set[_Corner], spacing_mm: Spacing) -> float:
    """Area of the piece of surface that separates one group of 1 to 4 corners from the rest."""
    sz, sy, sx = spacing_mm
    face = (sy * sx, sz * sx, sz * sy)  # of the cell, by the axis of its normal
    along = (math.hypot(*face[1:]), math.hypot(*face[::2]), math.hypot(*face[:2]))  # by their axis
    oblique = math.hypot(*face)
    axes_of = {corner: _edge_axes(corner, group) for corner in group}
    ends = [axes[0] for axes in axes_of.values() if len(axes) == 1]
    unused = {0, 1, 2}.difference(*axes_of.values())
    if len(group) == 1:  # a triangle cuts the corner off
        return oblique / 8
    if len(group) == 2:  # a rectangle along the edge
        return along[ends[0]] / 2
    if len(group) == 3:  # a triangle half way across the cell and a trapezoid
        return face[unused.pop()] / 2 + oblique * 3 / 8
    if len(ends) == 0:  # four corners of a face: the plane half way across the cell
        return face[unused.pop()]
    if len(ends) == 3:  # a corner and its three neighbours: a plane hexagon
        return oblique * 3 / 4
    return oblique / 2 + along[ends[0]] / 4 + along[ends[1]] / 4  # a chain: four triangles


def _edge_axes(corner: _Corner, group: set[_Corner]) -> list[int]:
    """Axes of the edges of the cell that lead from a corner to others of its group."""
    neighbours = [tuple(c ^ (axis == a) for a, c in enumerate(corner)) for axis in range(3)]
    return [axis for axis in range(3) if neighbours[axis] in group]
