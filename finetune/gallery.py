"""The worst cases of a data set in three planes, as pictures that a page holds inside itself.

Outlines only, two colours whatever the number of structures: the question is where prediction and
reference part, not which structure is which. The picture of one case with all names is
`finetune.picture`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from finetune.picture import box_around, draw_contour, structure_centre
from finetune.scores import CaseScore, DatasetScore, to_common_values
from stunet.drawing import BACKGROUND, mark_sides
from stunet.io.raw_case import read_case
from stunet.io.volume import Volume, read_label
from stunet.planes import PLANES, Plane, Window, choose_window

WORST_CASES = 3  # per data set
WORST_STRUCTURES = 3  # named per case
REFERENCE, PREDICTION = "#2dd4bf", "#ff9d4d"  # apart for every kind of colour vision
INCHES, DPI = 4.2, 130  # longer side of a picture: sharp at the width of a third of a page


@dataclass(frozen=True)
class Picture:
    """One plane of one case.

    Attributes:
        plane: Its name.
        uri: The picture itself, as a `data:` address.
        width, height: In pixels.
    """

    plane: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class GalleryCase:
    """One case of the gallery.

    Attributes:
        case_id: The case.
        mean_dice: Over its structures.
        worst: Its worst structures and their Dice, worst first, with what explains it if nothing
            was predicted or nothing should have been.
        focus: The structure that the planes go through.
        pictures: One per plane.
    """

    case_id: str
    mean_dice: float
    worst: tuple[tuple[str, float, str], ...]
    focus: str
    pictures: tuple[Picture, ...]


def worst_cases(score: DatasetScore, count: int = WORST_CASES) -> tuple[GalleryCase, ...]:
    """Draw the cases of lowest mean Dice, worst first."""
    scored = [case for case in score.cases if np.isfinite(case.mean_dice())]
    return tuple(_draw(case, score) for case in sorted(scored, key=CaseScore.mean_dice)[:count])


def _draw(case: CaseScore, score: DatasetScore) -> GalleryCase:
    dice = case.values("Dice")
    names = [structure.name for structure in score.matching.scored]
    order = [int(k) for k in np.argsort(dice, kind="stable") if np.isfinite(dice[k])]
    raw = next(raw for raw in score.dataset.cases if raw.case_id == case.case_id)
    image, reference = read_case(raw, score.dataset)
    prediction = read_label(case.prediction_file, like=image)
    maps = to_common_values(reference.array[0], prediction.array[0], score.matching)
    return GalleryCase(
        case_id=case.case_id,
        mean_dice=case.mean_dice(),
        worst=tuple((names[k], float(dice[k]), _remark(case, k)) for k in order[:WORST_STRUCTURES]),
        focus=names[order[0]],
        pictures=draw_planes(image, *maps, focus=order[0] + 1),
    )


def _remark(case: CaseScore, structure: int) -> str:
    if case.counts.n_pred[structure + 1] == 0:
        return "nothing predicted"
    return "" if case.counts.n_ref[structure + 1] else "not in the reference"


def draw_planes(
    image: Volume, reference_zyx: np.ndarray, prediction_zyx: np.ndarray, focus: int
) -> tuple[Picture, ...]:
    """Draw the three planes where a structure is best seen, both maps outlined.

    Args:
        image: Its first channel is shown.
        reference_zyx: Label values on its grid.
        prediction_zyx: Label values of the same meaning on the same grid.
        focus: The value to look at: where the reference has it, else where the prediction does.
    """
    sought = reference_zyx == focus
    centre = structure_centre(sought if sought.any() else prediction_zyx == focus)
    box = box_around((reference_zyx != 0) | (prediction_zyx == focus), image.spacing_mm)
    grey, window = image.array[0], choose_window(image.array[0])
    values = range(1, int(max(reference_zyx.max(), prediction_zyx.max())) + 1)
    pictures = []
    for plane in PLANES:
        index = centre[plane.axis] - box[plane.axis].start
        cuts = [plane.cut(a[box], index) for a in (grey, reference_zyx, prediction_zyx)]
        size_mm = plane.size_mm(grey[box].shape, image.spacing_mm)
        pictures.append(_draw_plane(plane, cuts, size_mm, window, values))
    return tuple(pictures)


def _draw_plane(
    plane: Plane,
    cuts: Sequence[np.ndarray],
    size_mm: tuple[float, float],
    window: Window,
    values: range,
) -> Picture:
    grey, reference, prediction = cuts
    height_mm, width_mm = size_mm
    scale = INCHES / max(size_mm)
    figure = Figure(figsize=(width_mm * scale, height_mm * scale), dpi=DPI, facecolor=BACKGROUND)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    extent = (0.0, width_mm, height_mm, 0.0)
    axes.imshow(
        grey,
        extent=extent,
        cmap="gray",
        vmin=window.low,
        vmax=window.high,
        interpolation="bicubic",
        aspect="auto",
    )
    for value in values:
        draw_contour(axes, reference == value, REFERENCE, extent, width=1.6)
        draw_contour(axes, prediction == value, PREDICTION, extent, width=1.2)
    axes.set(xlim=(0, width_mm), ylim=(height_mm, 0))  # contours reach half a voxel further
    mark_sides(axes, plane)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", facecolor=BACKGROUND, pil_kwargs={"quality": 82})
    width, height = (round(side * DPI) for side in figure.get_size_inches())
    uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(plane.name, uri, width, height)
