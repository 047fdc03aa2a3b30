"""Pictures of findings: three planes through the place in question, as `data:` addresses.

The structures in question are coloured, all others outlined faintly. For looking, not measuring.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data_tools.audit_finding import Case, Finding
from data_tools.audit_measure import CaseMeasure
from stunet.drawing import BACKGROUND, mark_sides
from stunet.io.store import Store
from stunet.planes import PLANES, Colour, Plane, Window, choose_window, overlay
from stunet.types import Size3

FIRST: Colour = (0.18, 0.83, 0.75)
SECOND: Colour = (1.0, 0.62, 0.30)
OTHERS: Colour = (0.75, 0.78, 0.85)
FAINT = 0.25  # opacity of other structures, relative
INCHES, DPI = 3.4, 110  # longer side of a picture
MAGNIFY_TO = 400  # pixels of an overlay, at least


@dataclass(frozen=True)
class Picture:
    """One plane of one case: a caption, the picture as a `data:` address, its size in pixels."""

    caption: str
    uri: str
    width: int
    height: int


def draw_finding(store: Store, finding: Finding, measure: CaseMeasure) -> tuple[Picture, ...]:
    """Draw the three planes of a finding about one case."""
    case = measure.case
    structure = next((measure.structures.get(name) for name in finding.structures), None)
    shape = store.rows[case.index].shape_zyx
    centre = finding.centre_zyx or (structure.centre_zyx if structure else _middle(shape))
    colours = dict.fromkeys(finding.structures, SECOND)
    colours |= dict.fromkeys(finding.structures[:1], FIRST)
    return draw_planes(store, case, centre, colours)


def draw_pair(stores: tuple[Store, ...], finding: Finding) -> tuple[Picture, ...]:
    """Draw the axial and coronal middle of two scans that are one."""
    assert finding.case and finding.other
    pictures: list[Picture] = []
    for case in (finding.case, finding.other):
        store = stores[case.store]
        centre = _middle(store.rows[case.index].shape_zyx)
        pictures += draw_planes(store, case, centre, {}, PLANES[:2])
    return tuple(pictures)


def draw_planes(
    store: Store,
    case: Case,
    centre_zyx: Size3,
    colours: dict[str, Colour],
    planes: tuple[Plane, ...] = PLANES,
) -> tuple[Picture, ...]:
    """Draw planes of a case through a voxel, with structures in the given colours."""
    row, info = store.rows[case.index], store.info
    image, label = store.read_patch(case.index, (0, 0, 0), row.shape_zyx)
    grey = image[0] * np.float32(row.scale[0]) + np.float32(row.offset[0])
    window = choose_window(grey)
    others = {value: OTHERS for value in info.labels.values() if value}
    palette = {info.labels[name]: colour for name, colour in colours.items()}
    pictures = []
    for plane in planes:
        index = centre_zyx[plane.axis]
        size_mm = plane.size_mm(row.shape_zyx, info.spacing_mm)
        cuts = plane.cut(grey, index), plane.cut(label, index)
        caption = f"{case.case_id}, {plane.name}, slice {index + 1}"
        pictures.append(_draw(plane, cuts, size_mm, window, (others, palette), caption))
    return tuple(pictures)


def _middle(shape_zyx: Size3) -> Size3:
    z, y, x = shape_zyx
    return z // 2, y // 2, x // 2


def _draw(
    plane: Plane,
    cuts: tuple[np.ndarray, np.ndarray],
    size_mm: tuple[float, float],
    window: Window,
    palettes: tuple[dict[int, Colour], dict[int, Colour]],
    caption: str,
) -> Picture:
    grey, label = cuts
    scale = INCHES / max(size_mm)
    height, width = (max(0.6, side * scale) for side in size_mm)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=BACKGROUND)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    place: dict[str, Any] = {"extent": (0, 1, 0, 1), "aspect": "auto"}
    axes.imshow(grey, cmap="gray", vmin=window.low, vmax=window.high, **place)
    others, palette = palettes
    magnify = max(1, -(-MAGNIFY_TO // max(label.shape)))
    faint = overlay(label, {v: c for v, c in others.items() if v not in palette}, magnify)
    faint[..., 3] *= FAINT
    axes.imshow(faint, interpolation="antialiased", **place)
    if palette:
        axes.imshow(overlay(label, palette, magnify), interpolation="antialiased", **place)
    mark_sides(axes, plane)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", facecolor=BACKGROUND, pil_kwargs={"quality": 80})
    uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(caption, uri, round(width * DPI), round(height * DPI))
