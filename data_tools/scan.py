"""One case ready to be looked at: what of it is worth showing, and pictures of its slices.

Plain arrays; `contact_sheet` draws them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from stunet.planes import Plane, Window, choose_window

if TYPE_CHECKING:
    from stunet.types import Size3, Spacing

BODY_MM, LABELS_MM = 10, 40  # shown around the body, or around the labels if there are any


@dataclass(frozen=True, eq=False)
class Picture:
    """A slice with all that is needed to draw it.

    Attributes:
        image_rc, label_rc: Values as picture rows and columns.
        height_mm, width_mm: Its size.
        letters: What lies at the left, right, top and bottom.
        position: Where it lies, e.g. `S 120`: 120 mm to Superior of the origin.
        window: The values shown black and white.
    """

    image_rc: np.ndarray
    label_rc: np.ndarray
    height_mm: float
    width_mm: float
    letters: str
    position: str
    window: Window


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume and its labels.

    Attributes:
        title, subtitle: Text for a person.
        image_zyx: One channel, physical values.
        label_zyx: Label values, all 0 where there is no label.
        spacing_mm: Voxel size, z y x.
        affine: (4, 4), index `(x, y, z, 1)` to RAS+ mm.
        window: The values shown black and white.
    """

    title: str
    subtitle: str
    image_zyx: np.ndarray
    label_zyx: np.ndarray
    spacing_mm: Spacing
    affine: np.ndarray
    window: Window

    @property
    def shape_zyx(self) -> Size3:
        """Voxels along z, y, x."""
        z, y, x = self.image_zyx.shape
        return (z, y, x)

    def occupied(self) -> np.ndarray:
        """The voxels worth showing: the labels, or what is brighter than the window's black."""
        labelled = self.label_zyx > 0
        return labelled if labelled.any() else self.image_zyx > self.window.low

    def picture(self, plane: Plane, index: int) -> Picture:
        """The slice at `index`."""
        height_mm, width_mm = plane.size_mm(self.shape_zyx, self.spacing_mm)
        centre_xyz = [(size - 1) / 2 for size in reversed(self.shape_zyx)]
        world = 2 - plane.axis
        centre_xyz[world] = index
        along_mm = float(self.affine[world] @ (*centre_xyz, 1))
        return Picture(
            image_rc=plane.cut(self.image_zyx, index),
            label_rc=plane.cut(self.label_zyx, index),
            height_mm=height_mm,
            width_mm=width_mm,
            letters=plane.letters,
            position=f"{('RL', 'AP', 'SI')[world][along_mm < 0]} {abs(along_mm):.0f}",
            window=self.window,
        )


def scan_of(
    title: str,
    subtitle: str,
    image_zyx: np.ndarray,
    label_zyx: np.ndarray,
    spacing_mm: Spacing,
    affine: np.ndarray,
) -> Scan:
    """Return the part of a volume that is worth showing, with some surroundings."""
    window = choose_window(image_zyx)
    whole = Scan(title, subtitle, image_zyx, label_zyx, spacing_mm, affine, window)
    inside = whole.occupied()
    border_mm = LABELS_MM if label_zyx.any() else BODY_MM
    box, moved = [], np.array(affine, dtype=np.float64)
    for axis, side_mm in enumerate(spacing_mm):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(inside.any(axis=others))
        border = math.ceil(border_mm / side_mm)
        first = max(0, int(occupied[0]) - border) if occupied.size else 0
        last = int(occupied[-1]) + border + 1 if occupied.size else inside.shape[axis]
        box.append(slice(first, last))
        moved[:3, 3] += affine[:3, 2 - axis] * first
    cut = tuple(box)
    return replace(whole, image_zyx=image_zyx[cut], label_zyx=label_zyx[cut], affine=moved)
