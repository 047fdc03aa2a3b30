"""The short cut through cells that one class wins, on data made to mislead it."""

import numpy as np
import pytest
import torch

from stunet.inference import plane_labels
from stunet.inference.plane_labels import Plane, interpolation_line, labels_between

ROWS, COLUMNS = interpolation_line(9, 23), interpolation_line(11, 17)
WEIGHTS = np.float32([0, 0.25, 1 / 3, 0.9, 1])


def everywhere(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """All classes at all points in float32, then numpy's arg-max."""

    def mean(low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return low * (np.float32(1) - weight) + high * weight

    full = mean(below[None], above[None], WEIGHTS[:, None, None, None])
    full = mean(full[:, :, ROWS.lower], full[:, :, ROWS.upper], ROWS.weight[:, None])
    full = mean(full[..., COLUMNS.lower], full[..., COLUMNS.upper], COLUMNS.weight)
    assert full.dtype == np.float32
    return full.argmax(axis=1)


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
        tensors = torch.from_numpy(below), torch.from_numpy(above)
        plane_labels._label_rows(*tensors, weight, ROWS, COLUMNS, out)
    assert np.array_equal(found, everywhere(below, above))
