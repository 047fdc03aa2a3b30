"""Slices of a volume as a radiologist looks at them, as plain arrays: no drawing library here.

Patient right is on the left of the picture, anterior and superior are up; in the sagittal plane
anterior is on the left. Arrays are oriented (RAS+), `(z, y, x)`.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from stunet.types import Size3, Spacing

Colour = tuple[float, float, float]

AIR_HU = (-1100, -900)  # air and its noise in CT
AIR_SHARE = 0.05  # at least this much of a CT is air; MR phase images are far below
SAMPLE = 2_000_000  # values that percentiles are taken from: the third digit does not move
FILL, OUTLINE = 0.35, 0.95  # opacity inside and at the border of a structure
GOLDEN = 0.618033988749895  # steps of the golden ratio keep any number of hues apart


@dataclass(frozen=True)
class Plane:
    """One of the three directions to cut.

    Attributes:
        name: What radiologists call it.
        axis: The array axis (0 = z, 1 = y, 2 = x) that the cut fixes.
        letters: What lies at the left, right, top and bottom of the picture.
    """

    name: str
    axis: int
    letters: str

    def cut(self, array_zyx: np.ndarray, index: int) -> np.ndarray:
        """Return the slice as picture rows (top first) and columns (left first).

        Whatever is fixed, the two axes left over both run against the picture.
        """
        return np.take(array_zyx, index, axis=self.axis)[::-1, ::-1]

    def size_mm(self, shape_zyx: Size3, spacing_mm: Spacing) -> tuple[float, float]:
        """Return height and width of the picture in mm."""
        sides = [n * side for n, side in zip(shape_zyx, spacing_mm, strict=True)]
        del sides[self.axis]
        return sides[0], sides[1]


PLANES = (Plane("axial", 0, "RLAP"), Plane("coronal", 1, "RLSI"), Plane("sagittal", 2, "APSI"))


class Window(NamedTuple):
    """The values shown black and white, and what to call the choice."""

    low: float
    high: float
    name: str


def choose_window(image_zyx: np.ndarray) -> Window:
    """Return the soft-tissue window where the values are plainly HU, else percentiles.

    Percentiles leave out the smallest value, which is the padding of most images.
    """
    values = image_zyx.ravel()[:: max(1, image_zyx.size // SAMPLE)]
    air = (values >= AIR_HU[0]) & (values <= AIR_HU[1])
    if air.mean() >= AIR_SHARE:
        return Window(-160, 240, "CT soft tissue, -160 to 240 HU")
    inside = values[values > values.min()]
    low, high = np.percentile(inside if inside.size else values, (1, 99.5)).tolist()
    return Window(low, high if high > low else low + 1, f"{low:.4g} to {high:.4g}")


def spread(occupied: np.ndarray, count: int) -> list[int]:
    """Return up to `count` indices spread over the range in which `occupied` is true.

    The ends are left out: structures barely begin there. Everything counts where nothing is true.
    """
    indices = np.flatnonzero(occupied) if occupied.any() else np.arange(len(occupied))
    places = np.linspace(indices[0], indices[-1], count + 2)[1:-1]
    return sorted({int(place) for place in np.round(places)})


def fullest(occupied_zyx: np.ndarray, axis: int) -> int:
    """Return the index along `axis` whose slice holds most true voxels; the middle if none is."""
    others = tuple(other for other in range(3) if other != axis)
    counts = np.count_nonzero(occupied_zyx, axis=others)
    return int(counts.argmax()) if counts.any() else len(counts) // 2


def colours(values: list[int]) -> dict[int, Colour]:
    """Return a bright colour per label value, neighbours far apart in hue."""
    shades = ((0.80, 1.0), (0.50, 1.0), (0.75, 0.75))
    return {
        value: colorsys.hsv_to_rgb((0.02 + rank * GOLDEN) % 1, *shades[rank // 7 % len(shades)])
        for rank, value in enumerate(values)
    }


def overlay(label_rc: np.ndarray, palette: dict[int, Colour], magnify: int) -> np.ndarray:
    """Return float32 RGBA `(rows * magnify, columns * magnify, 4)`: filled and outlined structures.

    `magnify` makes the outline thinner than a voxel. Values without a colour stay transparent.
    """
    label = np.repeat(np.repeat(label_rc, magnify, axis=0), magnify, axis=1)
    table = np.zeros((max([*palette, int(label.max())]) + 1, 4), np.float32)
    for value, colour in palette.items():
        table[value] = (*colour, FILL)
    rgba = table[label]
    border = np.zeros(label.shape, bool)
    border[1:] |= label[1:] != label[:-1]
    border[:-1] |= label[1:] != label[:-1]
    border[:, 1:] |= label[:, 1:] != label[:, :-1]
    border[:, :-1] |= label[:, 1:] != label[:, :-1]
    rgba[border & (rgba[..., 3] > 0), 3] = OUTLINE
    return rgba
