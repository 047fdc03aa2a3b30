"""From solids to voxels: where the patient lies, how soft edges are painted, what the scanner adds.

Not for: the anatomy (`phantom_anatomy` and its tables) or files (`phantom`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from data_tools.phantom_anatomy import CAVITY, STRUCTURES, Organ, View
from data_tools.phantom_shapes import Bounds, Coordinates, rotation
from stunet.types import Size3, Spacing

NOISE_HU = 13.0  # standard deviation in a routine abdominal CT, after the smoothing below
DRIFT_HU = 5.0  # slow shading across the field of view
WARP_MM = (4.0, 1.6)  # amplitude of the long and of the short bends of the body, per axis
WARP_LENGTH_MM = (320.0, 120.0)
TABLE_Y_MM = -139.0  # middle of the table's board, which the patient's back touches
WALL_MM = 2.0  # confined organs keep this distance from the wall of the trunk

_LABEL_VALUE = {name: value for value, name in enumerate(STRUCTURES, start=1)}
_Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Wave:
    """A standing wave `amplitude * sin * sin * sin`; `frequency` in radians per body mm."""

    amplitude: float
    frequency: np.ndarray
    phase: np.ndarray

    def on_grid(self, axes_xyz: list[np.ndarray]) -> np.ndarray:
        """Values (z, y, x) on the grid of three coordinate vectors."""
        x, y, z = (
            np.sin(axis * np.float32(f) + np.float32(p))
            for axis, f, p in zip(axes_xyz, self.frequency, self.phase, strict=True)
        )
        plane = np.float32(self.amplitude) * y[:, None] * x
        return z[:, None, None] * plane


@dataclass(frozen=True)
class Pose:
    """How one patient lies in the field of view.

    Attributes:
        scale: Scanner mm per body mm.
        turn: (3, 3) rotation, body to scanner.
        shift: (3,) xyz in body mm.
        centre: (3,) xyz, the body point at the middle of the field of view when not shifted.
        bends: For x, y and z the waves by which the body is bent.
    """

    scale: float
    turn: np.ndarray
    shift: np.ndarray
    centre: np.ndarray
    bends: tuple[tuple[Wave, ...], ...]


def draw_wave(amplitude: float, length_mm: float, rng: np.random.Generator) -> Wave:
    """A wave of about the given length with random phase."""
    frequency = 2 * np.pi / length_mm * rng.uniform(0.7, 1.1, 3)
    return Wave(amplitude, frequency, rng.uniform(0, 2 * np.pi, 3))


def draw_pose(view: View, shape_zyx: Size3, spacing_mm: Spacing, rng: np.random.Generator) -> Pose:
    """A patient who fills the field of view, laid down with the usual small errors."""
    field_mm = np.multiply(shape_zyx, spacing_mm)
    return Pose(
        scale=float((field_mm / view.size_mm).min() * rng.uniform(0.94, 1.0)),
        turn=rotation(tuple(rng.uniform(-1, 1, 3) * (2.0, 3.0, 4.0))),
        shift=rng.uniform(-6, 6, 3),
        centre=view.centre_mm[::-1],
        bends=tuple(
            tuple(
                draw_wave(amplitude, length, rng)
                for amplitude, length in zip(WARP_MM, WARP_LENGTH_MM, strict=True)
            )
            for _ in range(3)
        ),
    )


class Canvas:
    """A scan in the making.

    Attributes:
        image: float32 HU (z, y, x).
        label: uint8 values of all `STRUCTURES` (z, y, x).
    """

    def __init__(self, shape_zyx: Size3, spacing_mm: Spacing, pose: Pose) -> None:
        self.image = np.full(shape_zyx, -1000, dtype=np.float32)
        self.label = np.zeros(shape_zyx, dtype=np.uint8)
        self._pose = pose
        self._step_xyz = np.array(spacing_mm[::-1]) / pose.scale  # voxel in body mm
        self._count_xyz = np.array(shape_zyx[::-1])
        self._axes = [
            ((np.arange(n) - (n - 1) / 2) * step - shift).astype(np.float32)
            for n, step, shift in zip(self._count_xyz, self._step_xyz, pose.shift, strict=True)
        ]
        self._edge_mm = np.float32(self._step_xyz.mean())
        self._xyz = self._body_coordinates()
        self._outside_cavity = CAVITY.distance(self._xyz)

    def _body_coordinates(self) -> Coordinates:
        x, y, z = self._axes
        turn = self._pose.turn.astype(np.float32)
        grids = []
        for axis in range(3):  # column `axis` of the rotation: its inverse applied
            plane = turn[1, axis] * y[:, None] + turn[0, axis] * x
            straight = (turn[2, axis] * z + np.float32(self._pose.centre[axis]))[:, None, None]
            grid = straight + plane
            for wave in self._pose.bends[axis]:
                grid += wave.on_grid(self._axes)
            grids.append(grid)
        return grids[0], grids[1], grids[2]

    def _box(self, bounds: Bounds, rim_mm: float) -> _Box | None:
        """The voxels within `rim_mm` of a body box, or None if it is out of view."""
        low, high = bounds
        turn = self._pose.turn
        middle = turn @ ((low + high) / 2 - self._pose.centre) + self._pose.shift
        half = np.abs(turn) @ ((high - low) / 2 + rim_mm + sum(WARP_MM) + self._edge_mm)
        offset = (self._count_xyz - 1) / 2
        first = np.floor((middle - half) / self._step_xyz + offset).astype(int)
        last = np.ceil((middle + half) / self._step_xyz + offset).astype(int) + 1
        first, last = np.maximum(first, 0), np.minimum(last, self._count_xyz)
        if np.any(first >= last):
            return None
        x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return z, y, x

    def paint_table(self, tissue_hu: dict[str, float]) -> None:
        """Lay the scanner table under the patient: a curved board, foam in a thin shell."""
        x, y, _ = self._axes
        x, y = x[None, :], y[:, None] + np.float32(self._pose.centre[1])
        board = np.abs(y - np.float32(TABLE_Y_MM) - x * x / 1600) - np.float32(14)
        distance = np.maximum(board, np.abs(x) - np.float32(215))
        for tissue, depth in (("shell", 0.0), ("foam", 4.0)):
            self._blend((slice(None),) * 3, distance + np.float32(depth), tissue_hu[tissue])

    def paint(self, organ: Organ, tissue_hu: dict[str, float]) -> None:
        """Paint an organ over what is there, outer layers of all its solids first."""
        rim_mm = max(0.0, -organ.layers[0][1])
        pieces: list[tuple[_Box, np.ndarray]] = []
        for shape in organ.shapes:
            box = self._box(shape.bounds(), rim_mm)
            if box is None:
                continue
            x, y, z = self._xyz
            distance = shape.distance((x[box], y[box], z[box]))
            if organ.confined:
                np.maximum(distance, self._outside_cavity[box] + WALL_MM, out=distance)
            pieces.append((box, distance))
        for tissue, depth in organ.layers:
            for box, distance in pieces:
                self._blend(box, distance + np.float32(depth), tissue_hu[tissue])
        own = _LABEL_VALUE[organ.name] if organ.name else 0
        for reach_mm, value in ((rim_mm, 0), (0.0, own)):
            for box, distance in pieces:
                self.label[box][distance < reach_mm] = value

    def _blend(self, box: _Box, distance: np.ndarray, hu: float) -> None:
        """Mix `hu` in by the part of each voxel that is inside: the partial-volume effect."""
        inside = np.clip(np.float32(0.5) - distance / self._edge_mm, 0, 1)
        region = self.image[box]
        region += inside * (np.float32(hu) - region)


def swayed(organ: Organ, rng: np.random.Generator) -> Organ:
    """The organ of one patient: shifted and resized by chance if it is a movable one.

    The size varies by up to 8 %, by less in a long organ, whose ends would travel too far.
    """
    if not organ.sway_mm:
        return organ
    lows, highs = zip(*(shape.bounds() for shape in organ.shapes), strict=True)
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    offset = organ.sway_mm * np.clip(rng.standard_normal(3), -2, 2)
    swing = min(0.08, 5 * organ.sway_mm / float((high - low).max()))
    scale = float(np.exp(rng.uniform(-swing, swing)))
    middle = (low + high) / 2
    return replace(organ, shapes=tuple(s.moved(scale, middle, offset) for s in organ.shapes))


def scanned(image_zyx: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a scanner makes of ideal HU: blur, correlated noise, slow shading, whole numbers.

    Args:
        image_zyx: float32 HU.
        rng: Draws noise and shading.

    Returns:
        int16 HU (z, y, x), from -1024 to 3071.
    """
    image = gaussian_filter(image_zyx, 0.45, truncate=3)
    noise = gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 0.6, truncate=3)
    image += noise * np.float32(NOISE_HU / noise.std())
    axes = [np.arange(n, dtype=np.float32) / n for n in image.shape[::-1]]
    image += draw_wave(DRIFT_HU, 1.5, rng).on_grid(axes)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)
