"""One picture of a case: image, truth and prediction in three planes, for a person to judge.

Not for measuring: what is drawn is one slice per plane.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stunet.drawing import BACKGROUND, INK, mark_sides
from stunet.io.atomic import atomic_write_bytes
from stunet.io.volume import Volume
from stunet.planes import PLANES, Colour, choose_window, colours

MARGIN_MM = 25.0  # shown around the structures, enough to recognise where in the body they lie
PANELS_INCHES = (11.0, 9.6)  # largest width and height of the nine panels together
LEGEND_ENTRY_INCHES = (2.2, 0.23)


def draw_prediction(
    path_png: Path,
    image: Volume,
    truth_zyx: np.ndarray,
    prediction_zyx: np.ndarray,
    labels: Mapping[str, int],
    title: str,
) -> None:
    """Write a picture with a row per plane and columns image, truth, prediction.

    Radiological convention: patient right is on the left, superior is up. Each plane goes through
    the slice where the structures are best seen together. Millimetres are true in every row.

    Args:
        path_png: Where the picture goes; written atomically.
        image: The volume; its first channel is shown.
        truth_zyx: Reference label values on the grid of the volume.
        prediction_zyx: Predicted label values on the same grid.
        labels: Structure name to value; those present in either are named and coloured.
        title: One line above the picture.
    """
    present = set(np.unique(truth_zyx)) | set(np.unique(prediction_zyx))
    shown = {name: v for name, v in labels.items() if v in present and v != 0}
    palette = colours(list(shown.values()))
    centre = structure_centre(truth_zyx if truth_zyx.any() else prediction_zyx)
    box = box_around((truth_zyx != 0) | (prediction_zyx != 0), image.spacing_mm)
    centre = [c - b.start for c, b in zip(centre, box, strict=True)]
    low, high, _ = choose_window(image.array[0])
    grey = image.array[0][box]
    truth, prediction = truth_zyx[box], prediction_zyx[box]

    sizes_mm = [plane.size_mm(grey.shape, image.spacing_mm) for plane in PLANES]
    figure, rows, legend_columns = _layout(sizes_mm, legend_entries=len(shown) + 1)
    for axes_row, plane, (height_mm, width_mm) in zip(rows, PLANES, sizes_mm, strict=True):
        index = centre[plane.axis]
        cut_truth, cut_prediction = plane.cut(truth, index), plane.cut(prediction, index)
        extent = (0.0, width_mm, height_mm, 0.0)
        style = {"cmap": "gray", "vmin": low, "vmax": high, "interpolation": "bicubic"}
        for axes, labelled in zip(axes_row, (None, cut_truth, cut_prediction), strict=True):
            axes.imshow(plane.cut(grey, index), extent=extent, **style)
            if labelled is not None:
                _draw_labels(axes, labelled, palette, extent)
        for value in palette:
            draw_contour(axes_row[2], cut_truth == value, "white", extent, width=0.6)
        for axes in axes_row:  # contours reach half a voxel further
            axes.set(xlim=(0, width_mm), ylim=(height_mm, 0))
        mark_sides(axes_row[0], plane)
    for axes, heading in zip(rows[0], ("image", "truth", "prediction"), strict=True):
        axes.set_title(heading, color=INK, fontsize=11, pad=8)
    figure.suptitle(title, color=INK, fontsize=13)
    _add_legend(figure, shown, palette, legend_columns)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor=BACKGROUND)
    atomic_write_bytes(path_png, buffer.getvalue())


def structure_centre(label_zyx: np.ndarray) -> list[int]:
    """Return the z, y, x slice in which the structures are best seen together.

    Every structure counts alike: its area in a slice relative to its largest area in any slice of
    that direction. Without structures, the middle of the volume.
    """
    score = [np.zeros(n) for n in label_zyx.shape]
    for value in np.unique(label_zyx[label_zyx != 0]):
        mask = label_zyx == value
        for axis in range(3):
            area = mask.sum(axis=tuple(a for a in range(3) if a != axis))
            score[axis] += area / area.max()
    return [int(s.argmax()) if s.any() else len(s) // 2 for s in score]


def box_around(mask_zyx: np.ndarray, spacing_mm: Sequence[float]) -> tuple[slice, slice, slice]:
    """Bounding box of the mask with the margin, inside the volume; all of it without a mask."""
    slices = []
    for axis, (length, spacing) in enumerate(zip(mask_zyx.shape, spacing_mm, strict=True)):
        hit = np.flatnonzero(mask_zyx.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = round(MARGIN_MM / spacing)
        first, last = (hit[0], hit[-1]) if len(hit) else (0, length - 1)
        slices.append(slice(max(0, int(first) - margin), min(length, int(last) + 1 + margin)))
    z, y, x = slices
    return z, y, x


def _layout(
    sizes_mm: Sequence[tuple[float, float]], legend_entries: int
) -> tuple[Figure, np.ndarray, int]:
    """A figure with nine cells in the planes' proportions, at one scale, and room for a legend.

    Returns the figure, its axes (3, 3) and the number of columns of the legend.
    """
    heights = [height for height, _ in sizes_mm]
    width = max(width for _, width in sizes_mm)
    inches_per_mm = min(PANELS_INCHES[0] / (3 * width), PANELS_INCHES[1] / sum(heights))
    panels_width, panels_height = 3 * width * inches_per_mm, sum(heights) * inches_per_mm
    entry_width, entry_height = LEGEND_ENTRY_INCHES
    columns = math.ceil(legend_entries * entry_height / panels_height)
    figure = Figure(
        figsize=(panels_width + columns * entry_width + 0.6, panels_height + 1.2),
        facecolor=BACKGROUND,
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08),
    )
    rows = figure.subplots(3, 3, height_ratios=heights, squeeze=False)
    for axes in rows.flat:
        axes.set_axis_off()
    return figure, rows, columns


def _draw_labels(
    axes: Axes,
    cut: np.ndarray,
    palette: Mapping[int, Colour],
    extent: tuple[float, float, float, float],
) -> None:
    rgba = np.zeros((*cut.shape, 4))
    for value, colour in palette.items():
        rgba[cut == value] = (*colour, 0.35)
    axes.imshow(rgba, extent=extent, interpolation="nearest")
    for value, colour in palette.items():
        draw_contour(axes, cut == value, colour, extent, width=1.2)


def draw_contour(
    axes: Axes,
    mask: np.ndarray,
    colour: str | Colour,
    extent: tuple[float, float, float, float],
    width: float,
) -> None:
    """Outline a mask; a rim of background closes outlines at the border of the picture."""
    if not mask.any():
        return
    rows, columns = mask.shape
    _, right, bottom, _ = extent
    x = (np.arange(-1, columns + 1) + 0.5) * right / columns
    y = (np.arange(-1, rows + 1) + 0.5) * bottom / rows
    axes.contour(x, y, np.pad(mask.astype(float), 1), [0.5], colors=[colour], linewidths=width)


def _add_legend(
    figure: Figure, shown: Mapping[str, int], palette: Mapping[int, Colour], columns: int
) -> None:
    handles: list[Patch | Line2D] = [
        Patch(facecolor=palette[value], label=name.replace("_", " "))
        for name, value in shown.items()
    ]
    handles.append(Line2D([], [], color="white", linewidth=0.9, label="outline of the truth"))
    figure.legend(
        handles=handles,
        loc="outside right center",
        frameon=False,
        labelcolor=INK,
        fontsize=9,
        ncols=columns,
    )
