"""Contact sheets: many slices of one volume, or one row of slices per case of a store, as PNG.

`planes` and `scan` decide what is shown and which way up; this file lays it out. Millimetres are
true within every picture. Not for measuring.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from stunet.io.atomic import atomic_write_bytes
from stunet.planes import PLANES, colours, fullest, overlay, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from data_tools.scan import Picture, Scan
    from stunet.planes import Colour
    from stunet.types import Spacing

BACKGROUND, INK, FAINT = "#0e1013", "#f4f4f4", "#a2abb5"
HALO = [withStroke(linewidth=1.6, foreground="black")]  # keeps letters legible on bone
DOTS_PER_INCH = 150
COLUMNS = 6  # slices per plane
CELL, TALLEST, LEAST = 2.1, 3.4, 0.6  # inches: width of a slice, its greatest and least height
MARGIN, GAP, HEAD, NAME = 0.3, 0.06, 0.75, 1.15  # inches; NAME: the column left of the slices
LEGEND, LINE = 2.75, 0.2  # inches: width of a legend column, height of an entry
LONGEST_NAME, LONGEST_ENTRY = 12, 26  # letters that fit into NAME and LEGEND
BARS_MM = (500, 200, 100, 50, 20, 10, 5, 2, 1)
MAX_MAGNIFY = 8
THIN = 0.45  # inches: what is thinner has no room for letters at its ends


class Entry(NamedTuple):
    """A line of the legend."""

    name: str
    colour: Colour
    note: str


def draw_scan(path_png: Path, scan: Scan, names: Mapping[int, str]) -> None:
    """Draw the three planes, several slices each, spread over the labels or else the body."""
    voxels = np.bincount(scan.label_zyx.ravel())
    palette = colours([int(value) for value in np.flatnonzero(voxels) if value])
    entries = [
        Entry(
            names.get(value, f"label {value}"), colour, millilitres(voxels[value], scan.spacing_mm)
        )
        for value, colour in palette.items()
    ]
    occupied = scan.occupied()
    rows: dict[str, list[Picture]] = {}
    for plane in PLANES:
        others = tuple(axis for axis in range(3) if axis != plane.axis)
        indices = spread(np.asarray(occupied.any(axis=others)), COLUMNS)
        pictures = [scan.picture(plane, index) for index in indices]
        if min(pictures[0].image_rc.shape) > 1:  # a plane across a single slice shows nothing
            rows[plane.name] = pictures
    sheet = _Sheet([_row_height(pictures) for pictures in rows.values()], COLUMNS, len(entries))
    sheet.write_head(scan.title, f"{scan.subtitle}   ·   window {scan.window.name}")
    for row, (name, pictures) in enumerate(rows.items()):
        sheet.write_name(row, name, "")
        sheet.draw(row, pictures, palette)
    sheet.write_legend(entries)
    sheet.save(path_png)


def draw_cases(
    path_png: Path, scans: Iterable[Scan], names: Mapping[int, str], title: str, subtitle: str
) -> None:
    """Draw one row per case: each plane where most labelled voxels are.

    `names` holds all labels without background. One volume is held at a time.
    """
    palette = colours(sorted(names))
    seen: set[int] = set()
    rows = []
    for scan in scans:
        seen.update(np.unique(scan.label_zyx).tolist())
        occupied = scan.occupied()
        pictures = [scan.picture(plane, fullest(occupied, plane.axis)) for plane in PLANES]
        rows.append((scan.title, scan.subtitle, pictures))
    entries = [Entry(names[value], palette[value], "") for value in palette if value in seen]
    sheet = _Sheet([_row_height(pictures) for *_, pictures in rows], len(PLANES), len(entries))
    sheet.write_head(title, subtitle)
    for row, (name, note, pictures) in enumerate(rows):
        sheet.write_name(row, name, note)
        sheet.draw(row, pictures, palette)
    sheet.write_legend(entries)
    sheet.save(path_png)


def millilitres(voxels: int, spacing_mm: Spacing) -> str:
    """The volume of so many voxels with three digits, e.g. `42.6 ml`."""
    volume = voxels * math.prod(spacing_mm) / 1000
    return f"{volume:.0f} ml" if volume >= 100 else f"{volume:.3g} ml"


class _Sheet:
    """A dark page: a head, rows of equal cells with a name at the left, a legend at the right."""

    def __init__(self, row_heights: Sequence[float], columns: int, entries: int) -> None:
        self._tops = [HEAD + sum(row_heights[:row]) + GAP * row for row in range(len(row_heights))]
        self._row_heights = row_heights
        body = sum(row_heights) + GAP * (len(row_heights) - 1)
        self._legend_lines = max(1, int(body / LINE))
        self._legend_left = MARGIN + NAME + columns * (CELL + GAP) + MARGIN
        width = self._legend_left + math.ceil(entries / self._legend_lines) * LEGEND
        self._size = (width, HEAD + body + MARGIN)
        self._figure = Figure(figsize=self._size, dpi=DOTS_PER_INCH, facecolor=BACKGROUND)

    def draw(self, row: int, pictures: Sequence[Picture], palette: dict[int, Colour]) -> None:
        """Put pictures into the cells of a row, with a scale bar in the first."""
        width, height = self._size
        for column, picture in enumerate(pictures):
            left = MARGIN + NAME + column * (CELL + GAP)
            low = height - self._tops[row] - self._row_heights[row]
            box = left / width, low / height, CELL / width, self._row_heights[row] / height
            axes = self._figure.add_axes(box)
            axes.set_axis_off()
            _draw_picture(axes, picture, palette)
            if column == 0 and min(_size_inches(picture)) > THIN:
                _draw_scale_bar(axes, picture)

    def write_head(self, title: str, subtitle: str) -> None:
        """Two lines above everything."""
        self._write(MARGIN, 0.22, title, size=13, weight="bold")
        self._write(MARGIN, 0.47, subtitle, size=8.5, color=FAINT)

    def write_name(self, row: int, name: str, note: str) -> None:
        """Text left of a row: the name, and lines below it."""
        middle = self._tops[row] + self._row_heights[row] / 2
        short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
        self._write(MARGIN, middle, short, size=9.5, weight="bold")
        self._write(MARGIN, middle + 0.16, note, size=7, color=FAINT, va="top")

    def write_legend(self, entries: Sequence[Entry]) -> None:
        """Colour, name and note of each structure, in as many columns as needed."""
        width, height = self._size
        for number, (name, colour, note) in enumerate(entries):
            column, line = divmod(number, self._legend_lines)
            left = self._legend_left + column * LEGEND
            top = HEAD + (line + 0.5) * LINE
            patch = Rectangle(
                (left / width, 1 - (top + 0.055) / height), 0.15 / width, 0.11 / height,
                facecolor=colour, transform=self._figure.transFigure,
            )  # fmt: skip
            self._figure.add_artist(patch)
            short = name if len(name) <= LONGEST_ENTRY else f"{name[: LONGEST_ENTRY - 1]}…"
            self._write(left + 0.23, top, short, size=8)
            self._write(left + LEGEND - 0.2, top, note, size=7, color=FAINT, ha="right")

    def save(self, path_png: Path) -> None:
        """Write the page, atomically."""
        stream = io.BytesIO()
        self._figure.savefig(stream, format="png")
        atomic_write_bytes(path_png, stream.getvalue())

    def _write(self, left: float, top: float, text: str, **style: Any) -> None:
        width, height = self._size
        place = left / width, 1 - top / height
        self._figure.text(*place, text, **{"color": INK, "va": "center", **style})


def _size_inches(picture: Picture) -> tuple[float, float]:
    """Height and width of a picture as large as a cell allows."""
    inches_per_mm = min(CELL / picture.width_mm, TALLEST / picture.height_mm)
    return picture.height_mm * inches_per_mm, picture.width_mm * inches_per_mm


def _row_height(pictures: Sequence[Picture]) -> float:
    return max(LEAST, *(_size_inches(picture)[0] for picture in pictures))


def _draw_picture(axes: Axes, picture: Picture, palette: dict[int, Colour]) -> None:
    low, high, _ = picture.window
    place: dict[str, Any] = {
        "extent": (0, picture.width_mm, 0, picture.height_mm),
        "aspect": "equal",
    }
    axes.imshow(
        picture.image_rc, cmap="gray", vmin=low, vmax=high, interpolation="bilinear", **place
    )
    label = picture.label_rc
    if label.any():
        magnify = min(MAX_MAGNIFY, max(1, math.ceil(CELL * DOTS_PER_INCH * 2 / max(label.shape))))
        axes.imshow(overlay(label, palette, magnify), interpolation="antialiased", **place)
    tall, wide = (inches > THIN for inches in _size_inches(picture))
    style: dict[str, Any] = {"transform": axes.transAxes, "color": INK, "path_effects": HALO}
    anchors = ((0.01, 0.5), (0.99, 0.5), (0.5, 0.99), (0.5, 0.01))
    sides = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    marks = zip(picture.letters, anchors, sides, (wide, wide, tall, tall), strict=True)
    for letter, (x, y), (across, up), fits in marks:
        if fits:
            axes.text(x, y, letter, ha=across, va=up, fontsize=6.5, **style)
    up, y = ("top", 0.99) if tall else ("bottom", 1.04)
    style["color"] = FAINT
    axes.text(0.01, y, picture.position, ha="left", va=up, fontsize=6, **style)


def _draw_scale_bar(axes: Axes, picture: Picture) -> None:
    length = next((bar for bar in BARS_MM if bar <= 0.3 * picture.width_mm), BARS_MM[-1])
    left, low = 0.04 * picture.width_mm, 0.06 * picture.height_mm
    axes.plot([left, left + length], [low, low], color=INK, linewidth=1.5, solid_capstyle="butt")
    axes.annotate(
        f"{length} mm", (left, low), (0, 2.5), textcoords="offset points",
        color=INK, fontsize=6, path_effects=HALO,
    )  # fmt: skip
