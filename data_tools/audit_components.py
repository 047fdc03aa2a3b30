"""Connected pieces of every structure, and every enclosed hole, in one pass over a label map.

Neighbouring voxels of one value along x are joined to runs first, and runs to pieces by
union-find: time and memory do not depend on the number of labels. Structures are joined over faces,
edges and corners (26 neighbours), background over faces only (6), so that a closed shell is closed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

SEVERAL, NOTHING = -2, -1  # what surrounds a piece: more than one value; only the volume's border


@dataclass(frozen=True, eq=False)
class Components:
    """All pieces of a label map; arrays of one entry (n,) or row per piece.

    Attributes:
        value: Label value, 0 for background.
        voxels: Number of voxels.
        sums: (n, 3) float64, sum of voxel indices z, y, x.
        low, high: (n, 3) int32, first and last index along z, y, x.
        around: The only value that its voxels' faces meet outside of it, `SEVERAL`, or `NOTHING`.
        run_piece: (runs,) piece of each run of voxels along x.
        run_place: (runs, 4) int32: z, y, first x and the x after the last of each run.
    """

    value: np.ndarray
    voxels: np.ndarray
    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray
    around: np.ndarray
    run_piece: np.ndarray
    run_place: np.ndarray

    def points(self, piece: int, at_most: int) -> np.ndarray:
        """(n, 3) z, y, x of the voxels of a piece, evenly thinned to `at_most`."""
        runs = self.run_place[self.run_piece == piece]
        lengths = runs[:, 3] - runs[:, 2]
        ends = np.cumsum(lengths)
        chosen = np.arange(0, ends[-1], -(-int(ends[-1]) // at_most))
        run = np.searchsorted(ends, chosen, side="right")
        x = runs[run, 2] + chosen - (ends - lengths)[run]
        return np.column_stack([runs[run, 0], runs[run, 1], x])

    def touches(self, shape_zyx: tuple[int, ...]) -> np.ndarray:
        """(n, 3) bool: whether a piece reaches the first or last slice along z, y, x."""
        return np.asarray((self.low == 0) | (self.high == np.array(shape_zyx) - 1))


def find_components(label_zyx: np.ndarray) -> Components:
    """Find all pieces, in the order of their first voxels.

    Args:
        label_zyx: (z, y, x) of any unsigned type.
    """
    label_zyx = np.ascontiguousarray(label_zyx)
    D, H, _ = label_zyx.shape
    runs = _runs(label_zyx)
    piece = np.arange(len(runs[1]), dtype=np.int64)
    _join_runs((D, H), runs, piece)
    count = _number(piece)
    around = np.full(count, NOTHING, np.int64)
    _surround((D, H), runs, piece, around)
    row = np.repeat(np.arange(D * H), np.diff(runs[0]))
    place = np.column_stack([row // H, row % H, runs[1], runs[2]]).astype(np.int32)
    values, voxels, sums, low, high = _gather(H, runs, piece, count)
    return Components(values, voxels, sums, low, high, around, piece, place)


@numba.njit(cache=True)
def _runs(label):  # type: ignore[no-untyped-def]
    """First run of each row (and the number of runs); start, stop and value of each run."""
    D, H, W = label.shape
    first = np.empty(D * H + 1, np.int64)
    total = 0
    for z in range(D):
        for y in range(H):
            row = label[z, y]
            total += 1
            for x in range(1, W):
                total += row[x] != row[x - 1]
    start, stop = np.empty(total, np.int32), np.empty(total, np.int32)
    value = np.empty(total, np.int64)
    run = 0
    for z in range(D):
        for y in range(H):
            row = label[z, y]
            first[z * H + y] = run
            begin = 0
            for x in range(1, W + 1):
                if x == W or row[x] != row[begin]:
                    start[run], stop[run], value[run] = begin, x, row[begin]
                    run += 1
                    begin = x
    first[D * H] = run
    return first, start, stop, value


@numba.njit(cache=True)
def _root(parent, run):  # type: ignore[no-untyped-def]
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@numba.njit(cache=True)
def _join(parent, one, two):  # type: ignore[no-untyped-def]
    one, two = _root(parent, one), _root(parent, two)
    parent[max(one, two)] = min(one, two)


@numba.njit(cache=True)
def _join_rows(runs, parent, row, other, faces):  # type: ignore[no-untyped-def]
    """Join the runs of two rows that share faces, or else only edges and corners.

    Both rows are tiled by their runs, so runs that overlap are met by always leaving the one that
    stops first; runs that only meet diagonally begin where two others stop together.
    """
    first, _, stop, value = runs
    a, b, end = first[row], first[other], first[row + 1]
    while a < end:
        if value[a] == value[b] and (faces or value[a] != 0):
            _join(parent, a, b)
        if stop[a] == stop[b]:
            if a + 1 < end:
                if value[a] == value[b + 1] and value[a] != 0:
                    _join(parent, a, b + 1)
                if value[a + 1] == value[b] and value[b] != 0:
                    _join(parent, a + 1, b)
            a += 1
            b += 1
        elif stop[a] < stop[b]:
            a += 1
        else:
            b += 1


@numba.njit(cache=True)
def _join_runs(size, runs, parent):  # type: ignore[no-untyped-def]
    D, H = size
    for z in range(D):
        for y in range(H):
            row = z * H + y
            if y > 0:
                _join_rows(runs, parent, row, row - 1, True)
            if z > 0:
                _join_rows(runs, parent, row, row - H, True)
                if y > 0:
                    _join_rows(runs, parent, row, row - H - 1, False)
                if y + 1 < H:
                    _join_rows(runs, parent, row, row - H + 1, False)


@numba.njit(cache=True)
def _number(parent):  # type: ignore[no-untyped-def]
    """Replace every run's parent by the number of its piece; return how many there are."""
    count = 0
    for run in range(len(parent)):
        if parent[run] == run:
            parent[run] = count
            count += 1
        else:
            parent[run] = parent[parent[run]]  # a smaller run, which has its number already
    return count


@numba.njit(cache=True)
def _gather(height, runs, piece, count):  # type: ignore[no-untyped-def]
    """Value, voxels, sums, low and high of every piece."""
    first, start, stop, value = runs
    values, voxels = np.zeros(count, np.int64), np.zeros(count, np.int64)
    sums = np.zeros((count, 3), np.float64)
    low, high = np.full((count, 3), 2**31 - 1, np.int32), np.full((count, 3), -1, np.int32)
    for row in range(len(first) - 1):
        z, y = row // height, row % height
        for run in range(first[row], first[row + 1]):
            k, n = piece[run], stop[run] - start[run]
            values[k] = value[run]
            voxels[k] += n
            sums[k, 0] += z * n
            sums[k, 1] += y * n
            sums[k, 2] += (start[run] + stop[run] - 1) * n / 2
            least = (z, y, np.int64(start[run]))  # of one type, so that a loop may index it
            greatest = (z, y, np.int64(stop[run] - 1))
            for axis in range(3):
                low[k, axis] = min(low[k, axis], least[axis])
                high[k, axis] = max(high[k, axis], greatest[axis])
    return values, voxels, sums, low, high


@numba.njit(cache=True)
def _meet(around, piece, other_value):  # type: ignore[no-untyped-def]
    if around[piece] == NOTHING:
        around[piece] = other_value
    elif around[piece] != other_value:
        around[piece] = SEVERAL


@numba.njit(cache=True)
def _surround(size, runs, piece, around):  # type: ignore[no-untyped-def]
    """Note for every piece which other values its faces meet."""
    D, H = size
    first, _, stop, value = runs
    for row in range(D * H):
        for run in range(first[row], first[row + 1] - 1):
            _meet(around, piece[run], value[run + 1])
            _meet(around, piece[run + 1], value[run])
        for other, there in ((row - 1, row % H > 0), (row - H, row >= H)):
            if not there:
                continue
            a, b = first[row], first[other]
            while a < first[row + 1]:
                if value[a] != value[b]:
                    _meet(around, piece[a], value[b])
                    _meet(around, piece[b], value[a])
                if stop[a] == stop[b]:
                    a += 1
                    b += 1
                elif stop[a] < stop[b]:
                    a += 1
                else:
                    b += 1
