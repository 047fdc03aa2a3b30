"""From planes of logits on the network's grid to labels on the grid of the scan.

Both grids cover the same box in space. Two neighbouring planes of all outputs are held at a time,
never all outputs of a volume, on either grid.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from stunet.inference.plane_labels import (
    Line,
    Paints,
    Plane,
    interpolation_line,
    labels_between,
)
from stunet.inference.sliding_window import Box
from stunet.io.voxels import label_dtype
from stunet.types import Size3


def labels_on_grid(
    planes_kab: Iterable[Tensor],
    order: Size3,
    shape_from: Size3,
    shape_to: Size3,
    region: Box | None = None,
    paints: Paints = (),
) -> np.ndarray:
    """Interpolate logits linearly onto `shape_to` and decide on a label.

    Args:
        planes_kab: (K, A, B) float32 each, along axis `order[0]`; A and B are the other two.
        order: The axes (0 z, 1 y, 2 x): along the planes, A, B.
        shape_from: The grid of the logits, z y x.
        shape_to: Shape of the result, z y x.
        region: The part of `shape_from` that the planes cover; all of it without.
        paints: The label values of outputs that may overlap, in the order of painting; empty: the
            index of the largest logit is the label.

    Returns:
        `shape_to` labels, uint8, uint16 where one can be above 255. Equal logits give the smaller
        index. What lies outside of `region` is 0.

    Source:
        nnU-Net's export: logits of each class resampled with order 1, then arg-max, or for regions
        painted one over the other where the sigmoid is above 0.5, which is a logit above 0.
    """
    whole = tuple(slice(0, length) for length in shape_from)
    parts, lines = zip(
        *(
            _inside(interpolation_line(shape_from[axis], shape_to[axis]), (region or whole)[axis])
            for axis in order
        ),
        strict=True,
    )
    along, rows, columns = lines
    labels: np.ndarray | None = None
    below: Plane | None = None
    for index, logits_kab in enumerate(planes_kab):
        above = Plane(logits_kab, paints)
        if labels is None:
            labels = np.zeros(shape_to, label_dtype(above.largest_label))
        for lower, first in ((index - 1, below), (index, above)):
            here = np.flatnonzero((along.upper == index) & (along.lower == lower))
            if len(here) and first is not None:
                found = labels_between(first, above, along.weight[here], rows, columns)
                place = slice(parts[0].start + here[0], parts[0].start + here[-1] + 1)
                labels.transpose(order)[place, parts[1], parts[2]] = found
        below = above
    assert labels is not None, "every volume has a plane"
    return labels


def _inside(line: Line, part: slice) -> tuple[slice, Line]:
    """The points of a line that need nothing outside of a part of the source, counted from it."""
    inside = np.flatnonzero((line.lower >= part.start) & (line.upper < part.stop))
    points = slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
    cut = Line(*(values[points] for values in line))
    return points, cut._replace(lower=cut.lower - part.start, upper=cut.upper - part.start)
