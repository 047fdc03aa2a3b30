"""How pictures of planes look, wherever they are drawn; the planes themselves are `planes.py`."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from stunet.planes import Plane

BACKGROUND, INK = "#101214", "#e8e8e8"


def mark_sides(axes: Axes, plane: Plane) -> None:
    """Write what lies at the four sides of a plane: R, L, A, P, S or I."""
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    aligned = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for side, (x, y), (ha, va) in zip(plane.letters, places, aligned, strict=True):
        text = axes.text(x, y, side, transform=axes.transAxes, ha=ha, va=va, color=INK, fontsize=9)
        text.set_path_effects([withStroke(linewidth=2, foreground=BACKGROUND)])
