"""The short cut through cells that one output wins, on data made to mislead it."""

import numpy as np
import pytest
import torch

from stunet.inference import plane_labels
from stunet.inference.plane_labels import Plane, interpolation_line, labels_between

ROWS, COLUMNS = interpolation_line(9, 23), interpolation_line(11, 17)
WEIGHTS = np.float32([0, 0.25, 0.5, 0.9, 1])


def logits_everywhere(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """All outputs at all points in float32, axis 1."""

    def mean(low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return low * (np.float32(1) - weight) + high * weight

    full = mean(below[None], above[None], WEIGHTS[:, None, None, None])
    full = mean(full[:, :, ROWS.lower], full[:, :, ROWS.upper], ROWS.weight[:, None])
    full = mean(full[..., COLUMNS.lower], full[..., COLUMNS.upper], COLUMNS.weight)
    assert full.dtype == np.float32
    return full


def everywhere(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    return logits_everywhere(below, above).argmax(axis=1)


def painted_everywhere(below: np.ndarray, above: np.ndarray, paints: tuple[int, ...]) -> np.ndarray:
    """One region after the other, as nnU-Net does."""
    full = logits_everywhere(below, above)
    labels = np.zeros((len(WEIGHTS), *full.shape[2:]), np.uint16)
    for region, value in enumerate(paints):
        labels[full[:, region] > 0] = value
    return labels


def planes(kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    shape = (2, 37, 9, 11)
    if kind == "random":
        values = rng.normal(size=shape)
    elif kind == "coarse":  # ties everywhere, and zeros of both signs
        values = np.round(rng.normal(size=shape)) * rng.choice([-1.0, 1.0], size=shape)
    elif kind == "blocks":  # one class far ahead in most cells
        values = rng.normal(size=shape)
        values[:, 7, :5] += 50
        values[:, 20, 5:] += 50
    elif kind == "huge":  # values whose rounding is larger than 1
        values = 1e9 + 100 * rng.integers(0, 9, size=shape)
    else:  # the last class ahead of all others by the smallest possible step, in every corner
        values = np.broadcast_to(rng.normal(size=(2, 1, 9, 11)), shape).astype(np.float32)
        values = values.copy()
        values[:, -1] = np.nextafter(values[:, -1], np.float32(np.inf))
    below, above = values.astype(np.float32)
    return below, above


KINDS = ["random", "coarse", "blocks", "huge", "one step"]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_all_classes_at_all_points(kind):
    below, above = planes(kind)
    first, second = (Plane(torch.from_numpy(p)) for p in (below, above))
    found = labels_between(first, second, WEIGHTS, ROWS, COLUMNS)
    assert np.array_equal(found, everywhere(below, above))


def test_the_short_cut_is_taken_only_where_it_is_safe():
    below, above = planes("blocks")
    decided = plane_labels._decided_cells(
        *Plane(torch.from_numpy(below)).peaks, *Plane(torch.from_numpy(above)).peaks
    )
    assert (decided[:4] == 7).all() and (decided[4] == -1).all() and (decided[5:] == 20).all()
    below, above = planes("one step")
    decided = plane_labels._decided_cells(
        *Plane(torch.from_numpy(below)).peaks, *Plane(torch.from_numpy(above)).peaks
    )
    assert (decided == -1).all()
    # Rounding really changes the winner there, hence the care:
    assert (everywhere(below, above) != 36).any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_on_other_devices_gives_the_same(kind, monkeypatch):
    below, above = planes(kind)
    monkeypatch.setattr(plane_labels, "BLOCK_ELEMENTS", 37 * 17 * 5)  # several blocks of rows
    found = np.empty((len(WEIGHTS), 23, 17), np.uint8)
    for weight, out in zip(WEIGHTS, found, strict=True):
        first, second = (Plane(torch.from_numpy(p)) for p in (below, above))
        plane_labels._label_rows(first, second, weight, ROWS, COLUMNS, out)
    assert np.array_equal(found, everywhere(below, above))


def region_planes(kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    shape = (2, 4, 9, 11)
    values = rng.normal(size=shape)
    if kind == "coarse":  # zeros of both signs everywhere
        values = np.round(values) * rng.choice([-1.0, 1.0], size=shape)
    elif kind == "blocks":  # the first region in most cells, the second in some, all others empty
        values = np.abs(values) * [[[[1]], [[1]], [[-1]], [[-1]]]]
        values[:, 1, :5] *= -1
        values[:, :2, :, 9:] = -1
    elif kind == "vanishing":  # positive, but so small that products with weights are not
        values = np.where(rng.random(shape) < 0.7, 1e-45, -1.0)
    elif kind == "vanishing above":  # nothing is painted over by a product that vanishes
        values = np.abs(values) * np.where(rng.random(shape) < 0.7, -1e-45, 1e-37)
        values[:, 0] = 1
    below, above = values.astype(np.float32)
    return below, above


REGION_KINDS = ["random", "coarse", "blocks", "vanishing", "vanishing above"]
PAINTS = {"distinct": (2, 1, 3, 300), "one value twice, and none": (7, 1, 7, 0)}


@pytest.mark.parametrize("paints", PAINTS.values(), ids=PAINTS)
@pytest.mark.parametrize("kind", REGION_KINDS)
def test_regions_are_painted_as_at_all_points(kind, paints, monkeypatch):
    below, above = region_planes(kind)
    first, second = (Plane(torch.from_numpy(p), paints) for p in (below, above))
    expected = painted_everywhere(below, above, paints)
    found = labels_between(first, second, WEIGHTS, ROWS, COLUMNS)
    assert found.dtype == (np.uint16 if 300 in paints else np.uint8)
    assert np.array_equal(found, expected)
    monkeypatch.setattr(plane_labels, "BLOCK_ELEMENTS", 4 * 17 * 5)  # several blocks of rows
    for weight, out in zip(WEIGHTS, found, strict=True):
        out[:] = 77
        plane_labels._label_rows(first, second, weight, ROWS, COLUMNS, out)
    assert np.array_equal(found, expected)


def test_the_short_cut_for_regions_is_taken_only_where_it_is_safe():
    def decided(kind: str) -> np.ndarray:
        planes = (Plane(torch.from_numpy(p), PAINTS["distinct"]) for p in region_planes(kind))
        return plane_labels._decided_cells(*(peak for plane in planes for peak in plane.peaks))

    blocks = decided("blocks")
    assert (blocks[:4, :8] == 1).all() and (blocks[5:, :8] == 2).all()
    assert (blocks[:, 9:] == 0).all() and (blocks[:, 8] == -1).all() and (blocks[4, :8] == -1).all()
    assert not (decided("vanishing") > 0).any()
    # A mean of positive logits is not positive there, hence the care:
    tiny = np.full((4, 9, 11), 1e-45, np.float32)
    assert (painted_everywhere(tiny, tiny, PAINTS["distinct"]) == 0).any()
