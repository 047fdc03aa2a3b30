"""The few solids a phantom is built of: where each lies and how far a point is from its surface.

Not for: which organ has which shape (`phantom_organs`, `phantom_skeleton`), voxels
(`phantom_render`).

Coordinates are millimetres in the body: x to the patient's Right, y Anterior, z Superior. A
distance is negative inside. A superellipsoid's is measured along the ray from its centre, which is
all that painting a soft edge one voxel wide needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Protocol

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator

Point = tuple[float, float, float]
Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]
Bounds = tuple[np.ndarray, np.ndarray]


class Shape(Protocol):
    """A solid in the body frame."""

    def bounds(self) -> Bounds:
        """Lower and upper corner, (3,) mm each, of a box that holds the solid."""

    def distance(self, xyz: Coordinates) -> np.ndarray:
        """Distance to the surface in mm, negative inside, of the points `xyz` (any one shape)."""

    def mirrored(self) -> Shape:
        """The same solid on the other side of the body."""

    def moved(self, scale: float, about: np.ndarray, offset: np.ndarray) -> Shape:
        """The solid scaled about a point, then shifted by `offset` mm."""


@dataclass(frozen=True)
class Ball:
    """A superellipsoid: `exponent` 2 is an ellipsoid, higher values are boxier.

    Attributes:
        centre: Body coordinates in mm.
        radii: Half axes in mm before turning.
        exponent: Of the superellipsoid, the same for all three axes.
        turn_deg: Right-handed turns about x, then y, then z.
    """

    centre: Point
    radii: Point
    exponent: float = 2.0
    turn_deg: Point = (0.0, 0.0, 0.0)

    def bounds(self) -> Bounds:
        """See `Shape`."""
        if self.exponent > 2 and any(self.turn_deg):
            half = np.abs(rotation(self.turn_deg)) @ np.asarray(self.radii)  # as if it were a box
        else:
            turned = rotation(self.turn_deg) * np.asarray(self.radii)
            half = np.sqrt((turned**2).sum(axis=1))
        return np.asarray(self.centre) - half, np.asarray(self.centre) + half

    def distance(self, xyz: Coordinates) -> np.ndarray:
        """See `Shape`."""
        offsets = [axis - np.float32(middle) for axis, middle in zip(xyz, self.centre, strict=True)]
        local = offsets
        if any(self.turn_deg):
            turn = rotation(self.turn_deg).astype(np.float32)
            local = [_sum([turn[i, j] * offsets[i] for i in range(3)]) for j in range(3)]
        return radial_distance(local, self.radii, self.exponent)

    def mirrored(self) -> Ball:
        """See `Shape`."""
        about_x, about_y, about_z = self.turn_deg
        x, y, z = self.centre
        return replace(self, centre=(-x, y, z), turn_deg=(about_x, -about_y, -about_z))

    def moved(self, scale: float, about: np.ndarray, offset: np.ndarray) -> Ball:
        """See `Shape`."""
        centre = moved_point(self.centre, scale, about, offset)
        rx, ry, rz = self.radii
        return replace(self, centre=centre, radii=(rx * scale, ry * scale, rz * scale))


@dataclass(frozen=True)
class Capsule:
    """A straight rod with round ends whose radius changes linearly from `start` to `end`."""

    start: Point
    end: Point
    radii: tuple[float, float]

    def bounds(self) -> Bounds:
        """See `Shape`."""
        ends = np.array([self.start, self.end])
        widths = np.array(self.radii)[:, None]
        return (ends - widths).min(axis=0), (ends + widths).max(axis=0)

    def distance(self, xyz: Coordinates) -> np.ndarray:
        """See `Shape`."""
        axis = np.subtract(self.end, self.start).astype(np.float32)
        offsets = [p - np.float32(start) for p, start in zip(xyz, self.start, strict=True)]
        along = _sum([offset * part for offset, part in zip(offsets, axis, strict=True)])
        along = np.clip(along / max(float(axis @ axis), 1e-6), 0, 1).astype(np.float32)
        across = [offset - along * part for offset, part in zip(offsets, axis, strict=True)]
        first, last = (np.float32(radius) for radius in self.radii)
        return np.sqrt(_sum([part * part for part in across])) - (first + along * (last - first))

    def mirrored(self) -> Capsule:
        """See `Shape`."""
        (x0, y0, z0), (x1, y1, z1) = self.start, self.end
        return replace(self, start=(-x0, y0, z0), end=(-x1, y1, z1))

    def moved(self, scale: float, about: np.ndarray, offset: np.ndarray) -> Capsule:
        """See `Shape`."""
        return Capsule(
            start=moved_point(self.start, scale, about, offset),
            end=moved_point(self.end, scale, about, offset),
            radii=(self.radii[0] * scale, self.radii[1] * scale),
        )


@dataclass(frozen=True)
class Blend:
    """Several solids melted into one, with fillets about `fillet_mm` wide where they meet."""

    shapes: tuple[Shape, ...]
    fillet_mm: float

    def bounds(self) -> Bounds:
        """See `Shape`."""
        lows, highs = zip(*(shape.bounds() for shape in self.shapes), strict=True)
        swell = self.fillet_mm / 4  # the most that the blend grows beyond its parts
        return np.min(lows, axis=0) - swell, np.max(highs, axis=0) + swell

    def distance(self, xyz: Coordinates) -> np.ndarray:
        """See `Shape`. Source: quadratic polynomial smooth minimum, I. Quilez, "Smooth minimum"."""
        width = np.float32(self.fillet_mm)

        def melt(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            overlap = np.maximum(width - np.abs(first - second), 0)
            return np.minimum(first, second) - overlap * overlap / (4 * width)

        return reduce(melt, (shape.distance(xyz) for shape in self.shapes))

    def mirrored(self) -> Blend:
        """See `Shape`."""
        return replace(self, shapes=mirrored(self.shapes))

    def moved(self, scale: float, about: np.ndarray, offset: np.ndarray) -> Blend:
        """See `Shape`."""
        return replace(self, shapes=tuple(s.moved(scale, about, offset) for s in self.shapes))


@dataclass(frozen=True)
class Wedge:
    """All points with `normal . point <= level` for every plane; bounded only by `box`."""

    planes: tuple[tuple[Point, float], ...]
    box: tuple[Point, Point]

    def bounds(self) -> Bounds:
        """See `Shape`."""
        return np.asarray(self.box[0]), np.asarray(self.box[1])

    def distance(self, xyz: Coordinates) -> np.ndarray:
        """See `Shape`."""
        sides = []
        for normal, level in self.planes:
            unit = np.asarray(normal, np.float32) / np.float32(np.linalg.norm(normal))
            projected = _sum([part * axis for part, axis in zip(unit, xyz, strict=True) if part])
            sides.append(projected - np.float32(level / np.linalg.norm(normal)))
        return reduce(np.maximum, sides)

    def mirrored(self) -> Wedge:
        """See `Shape`."""
        planes = tuple(((-x, y, z), level) for (x, y, z), level in self.planes)
        (x0, y0, z0), (x1, y1, z1) = self.box
        return Wedge(planes, ((-x1, y0, z0), (-x0, y1, z1)))

    def moved(self, scale: float, about: np.ndarray, offset: np.ndarray) -> Wedge:
        """A wedge is fixed to the chest wall: it stays."""
        return self


@dataclass(frozen=True)
class Loft:
    """A trunk: superelliptic cross sections drawn through a table of levels.

    Attributes:
        rows: (z, half width, half depth, y of the centre) in mm, z ascending.
        exponent: Of the superellipse.
    """

    rows: tuple[tuple[float, float, float, float], ...]
    exponent: float

    @cached_property
    def lattice(self) -> np.ndarray:
        """(3, L) float32: half width, half depth and centre at every full millimetre of z."""
        levels, *columns = np.array(self.rows, dtype=np.float64).T
        fine = np.arange(levels[0], levels[-1] + 1)
        return np.stack([PchipInterpolator(levels, c)(fine) for c in columns]).astype(np.float32)

    def section(self, z: float) -> tuple[float, float, float]:
        """Half width, half depth and centre y, in mm, of the cross section at `z`."""
        index = int(np.clip(round(z - self.rows[0][0]), 0, self.lattice.shape[1] - 1))
        half_width, half_depth, centre = self.lattice[:, index]
        return float(half_width), float(half_depth), float(centre)

    def bounds(self) -> Bounds:
        """See `Shape`."""
        width = max(row[1] for row in self.rows)
        depth = max(row[2] + abs(row[3]) for row in self.rows)
        low, high = self.rows[0][0], self.rows[-1][0]
        return np.array([-width, -depth, low]), np.array([width, depth, high])

    def distance(self, xyz: Coordinates) -> np.ndarray:
        """See `Shape`."""
        x, y, z = xyz
        low, high = self.rows[0][0], self.rows[-1][0]
        index = np.clip(z - np.float32(low - 0.5), 0, self.lattice.shape[1] - 1).astype(np.intp)
        half_width, half_depth, centre = (column[index] for column in self.lattice)
        side = radial_distance([x, y - centre], (half_width, half_depth), self.exponent)
        return np.maximum(side, np.maximum(np.float32(low) - z, z - np.float32(high)))

    def mirrored(self) -> Loft:
        """A trunk is symmetric."""
        return self

    def moved(self, scale: float, about: np.ndarray, offset: np.ndarray) -> Loft:
        """A trunk is the frame that others move in: it stays."""
        return self


def tube(
    points: tuple[Point, ...], radii: float | tuple[float, ...], step_mm: float = 14.0
) -> tuple[Capsule, ...]:
    """A smooth bent rod through `points`, as a chain of capsules at most about `step_mm` long.

    Args:
        points: Two or more points in mm.
        radii: One radius in mm, or one at each point.
        step_mm: Length of a capsule; a bend of 50 mm radius is then true to 0.5 mm.
    """
    nodes = np.array(points, dtype=np.float64)
    widths = np.broadcast_to(np.asarray(radii, dtype=np.float64), len(nodes))
    lengths = np.linalg.norm(np.diff(nodes, axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(lengths)])
    count = max(len(nodes), int(np.ceil(way[-1] / step_mm)) + 1)
    fine = np.linspace(0.0, way[-1], count)
    curve = CubicSpline(way, nodes)(fine) if len(nodes) > 2 else _line(nodes, way, fine)
    width = PchipInterpolator(way, widths)(fine)
    return tuple(
        Capsule(_point(curve[i]), _point(curve[i + 1]), (float(width[i]), float(width[i + 1])))
        for i in range(count - 1)
    )


def mirrored(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """The same solids on the other side of the body."""
    return tuple(shape.mirrored() for shape in shapes)


def rotation(turn_deg: Point) -> np.ndarray:
    """(3, 3) matrix of the right-handed turns about x, then y, then z, in degrees."""
    (sx, sy, sz), (cx, cy, cz) = np.sin(np.radians(turn_deg)), np.cos(np.radians(turn_deg))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def radial_distance(
    local: Sequence[np.ndarray], radii: Sequence[float | np.ndarray], exponent: float
) -> np.ndarray:
    """Distance in mm to a superellipse or superellipsoid along the ray from its centre.

    Args:
        local: Offsets from the centre in mm, one array per axis.
        radii: Half axes in mm, numbers or arrays like `local`.
        exponent: Of the superellipse.
    """
    ratios = [axis / radius for axis, radius in zip(local, radii, strict=True)]
    if exponent == 2:  # much the commonest, and a square is ten times faster than a power
        size = np.sqrt(_sum([ratio * ratio for ratio in ratios]))
    else:
        power = np.float32(exponent)
        size = _sum([np.abs(ratio) ** power for ratio in ratios]) ** np.float32(1 / exponent)
    near = np.float32(1e-3)  # the centre itself has no ray: give it the least radius, about
    length = np.sqrt(_sum([axis * axis for axis in local]))
    length = np.maximum(length, near * reduce(np.minimum, radii))
    return length * (1 - 1 / np.maximum(size, near))


def moved_point(point: Point, scale: float, about: np.ndarray, offset: np.ndarray) -> Point:
    """`point` scaled about `about`, then shifted by `offset`, all in mm."""
    return _point(about + scale * (np.asarray(point) - about) + offset)


def _sum(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return reduce(np.add, arrays)


def _line(nodes: np.ndarray, way: np.ndarray, fine: np.ndarray) -> np.ndarray:
    return nodes[0] + (nodes[1] - nodes[0]) * (fine / way[-1])[:, None]


def _point(values: np.ndarray) -> Point:
    x, y, z = (float(value) for value in values)
    return x, y, z
