"""A small picture of a prediction: one slice in each of the three planes, structures in colour.

For a first look at whether it makes sense, not for measuring. The picture with a reference beside
it belongs to the transfer report.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from stunet.drawing import BACKGROUND, INK
from stunet.io.atomic import atomic_write_bytes
from stunet.io.volume import Volume
from stunet.planes import PLANES, Colour, Plane, choose_window, colours, fullest, overlay

PANEL_INCHES = 3.4  # side of the square that each plane is fitted into
LEGEND_INCHES = 2.6
DOTS_PER_INCH = 120
NAMED = 16  # largest structures in the legend; more would be unreadable


def draw_preview(
    path_png: Path, image: Volume, label_zyx: np.ndarray, labels: Mapping[str, int], title: str
) -> None:
    """Write the picture, atomically.

    Each plane cuts where most labelled voxels lie, in the middle if there are none. Millimetres
    are true within a plane; patient right is on the left.
    """
    voxels = np.zeros(max(labels.values()) + 1, np.int64)
    for plane_yx in label_zyx:
        voxels += np.bincount(plane_yx.ravel(), minlength=len(voxels))
    shown = {name: value for name, value in labels.items() if value and voxels[value]}
    palette = colours(sorted(shown.values()))
    figure = Figure(
        figsize=(3 * PANEL_INCHES + LEGEND_INCHES, PANEL_INCHES + 0.5),
        facecolor=BACKGROUND,
        layout="constrained",
    )
    for axes, plane in zip(figure.subplots(1, 3), PLANES, strict=True):
        index = fullest(label_zyx != 0, plane.axis)
        _draw_plane(axes, plane, index, image, label_zyx, palette)
    figure.suptitle(title, color=INK, fontsize=10)
    largest = sorted(shown, key=lambda name: -voxels[shown[name]])[:NAMED]
    _draw_legend(figure, [(name, palette[shown[name]]) for name in largest], len(shown))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH)
    atomic_write_bytes(path_png, stream.getvalue())


def _draw_plane(
    axes: Axes,
    plane: Plane,
    index: int,
    image: Volume,
    label_zyx: np.ndarray,
    palette: dict[int, Colour],
) -> None:
    grey_rc, label_rc = plane.cut(image.array[0], index), plane.cut(label_zyx, index)
    height_mm, width_mm = plane.size_mm(image.shape_zyx, image.spacing_mm)
    extent = (0.0, width_mm, 0.0, height_mm)
    low, high, _ = choose_window(image.array[0])
    axes.imshow(grey_rc, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
    magnify = max(1, round(PANEL_INCHES * DOTS_PER_INCH / max(label_rc.shape)))
    axes.imshow(overlay(label_rc, palette, magnify), extent=extent, interpolation="nearest")
    axes.set(xticks=[], yticks=[], facecolor=BACKGROUND)
    axes.set_title(f"{plane.name} {index + 1}/{image.shape_zyx[plane.axis]}", color=INK, fontsize=8)
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    aligned = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for side, (x, y), (ha, va) in zip(plane.letters, places, aligned, strict=True):
        axes.text(x, y, side, transform=axes.transAxes, ha=ha, va=va, color=INK, fontsize=8)


def _draw_legend(figure: Figure, entries: Sequence[tuple[str, Colour]], total: int) -> None:
    handles = [Patch(color=colour, label=name.replace("_", " ")) for name, colour in entries]
    if total > len(entries):
        handles.append(Patch(color=BACKGROUND, label=f"and {total - len(entries)} more"))
    if not handles:
        handles = [Patch(color=BACKGROUND, label="no structure found")]
    figure.legend(
        handles=handles, loc="outside right center", frameon=False, labelcolor=INK, fontsize=8
    )
