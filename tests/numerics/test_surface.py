"""Surface scores against DeepMind's `surface-distance`, class by class."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import surface_distance
from scipy.spatial import cKDTree
from surface_distance import lookup_tables

from stunet.metrics.surface import SurfaceScores, surface_scores
from stunet.metrics.surfels import surfel_areas
from stunet.types import Spacing

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (0.8, 1.9, 3.3)]

# the package spells scipy's functions as before 1.8
pytestmark = pytest.mark.filterwarnings("ignore:Please import .* from the `scipy.ndimage`")


@pytest.fixture(autouse=True)
def old_numpy_name(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package says np.Inf for empty masks, which numpy 2 no longer knows."""
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)
    yield


def by_the_package(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Spacing, tolerance_mm: float
) -> SurfaceScores:
    distances = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
    with np.errstate(invalid="ignore"):  # 0 / 0 for two empty masks
        nsd = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)
    hd95 = surface_distance.compute_robust_hausdorff(distances, 95)
    return SurfaceScores(float(nsd), float(hd95) if np.isfinite(hd95) else np.nan)


def assert_equal_scores(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Spacing,
    tolerance_mm: float,
    classes: tuple[int, ...] = (1,),
) -> None:
    scores = surface_scores(reference, prediction, classes, spacing_mm, tolerance_mm)
    for value in classes:
        expected = by_the_package(reference == value, prediction == value, spacing_mm, tolerance_mm)
        assert scores[value].nsd == pytest.approx(expected.nsd, abs=1e-6, nan_ok=True)
        assert scores[value].hd95_mm == pytest.approx(expected.hd95_mm, abs=1e-6, nan_ok=True)


def blobs(shape: tuple[int, ...], labels: int, seed: int) -> np.ndarray:
    """Nearest of random centres: touching structures that also touch the border."""
    rng = np.random.default_rng(seed)
    centres = cKDTree(rng.random((labels, 3)) * shape)
    _, nearest = centres.query(np.indices(shape).reshape(3, -1).T)
    return nearest.reshape(shape).astype(np.uint8)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_areas_of_all_256_cells(spacing_mm: Spacing) -> None:
    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL.ravel()  # bit of each corner, z y x
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm)
    np.testing.assert_allclose(surfel_areas(spacing_mm), expected[bits @ kernel], atol=1e-12)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("density", [0.01, 0.5, 0.99])
def test_random_masks(spacing_mm: Spacing, density: float) -> None:
    rng = np.random.default_rng(int(density * 100))
    for shape in ((12, 9, 14), (1, 8, 8), (7, 1, 1), (2, 3, 20)):
        reference, prediction = (rng.random((2, *shape)) < density).astype(np.uint8)
        for tolerance_mm in (0.0, 0.75, 2.1, 40.0):
            assert_equal_scores(reference, prediction, spacing_mm, tolerance_mm)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_touching_structures_of_many_labels(spacing_mm: Spacing) -> None:
    reference, prediction = blobs((24, 30, 28), 40, seed=1), blobs((24, 30, 28), 40, seed=1)
    prediction = np.roll(prediction, (1, -2, 1), (0, 1, 2))
    prediction[reference == 7] = 3
    assert_equal_scores(reference, prediction, spacing_mm, 2.0, tuple(range(42)))


@pytest.mark.parametrize("side_mm", [0.1, 0.7, 1.0, 1.3])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cubes_shifted_by_exactly_the_tolerance(side_mm: float, axis: int) -> None:
    spacing_mm = (side_mm, 2 * side_mm, 3 * side_mm)
    reference = np.zeros((16, 16, 16), np.uint8)
    reference[4:10, 4:10, 4:10] = 1
    for voxels in (1, 2, 3):
        prediction = np.roll(reference, voxels, axis)
        shift_mm = voxels * spacing_mm[axis]
        assert_equal_scores(reference, prediction, spacing_mm, shift_mm)
        assert_equal_scores(reference, prediction, spacing_mm, np.nextafter(shift_mm, 0))
        exact = surface_scores(reference, prediction, [1], spacing_mm, shift_mm)[1]
        below = surface_scores(reference, prediction, [1], spacing_mm, 0.99 * shift_mm)[1]
        assert exact == SurfaceScores(1.0, pytest.approx(shift_mm))
        assert below.nsd < 0.9


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_empty_full_single_and_far(spacing_mm: Spacing) -> None:
    empty = np.zeros((9, 40, 10), np.uint8)
    full, one, other = np.ones_like(empty), empty.copy(), empty.copy()
    one[0, 0, 0] = 1
    other[8, 37:39, 9] = 1
    masks = (empty, full, one, other)
    for reference in masks:
        for prediction in masks:
            assert_equal_scores(reference, prediction, spacing_mm, 1.5)


def test_shells_where_every_point_is_far() -> None:
    z, y, x = np.ogrid[-20:21, -20:21, -20:21]
    radius = np.sqrt(z**2 + y**2 + x**2)
    inner, outer = (radius < 4).astype(np.uint8), (radius < 19).astype(np.uint8)
    assert_equal_scores(inner, outer, (1.0, 1.0, 1.0), 15.0)
    assert_equal_scores(outer, inner, (3.0, 1.0, 0.5), 15.0)


def test_many_classes_cost_less_than_the_package_class_by_class() -> None:
    reference = blobs((72, 72, 72), 60, seed=3)
    prediction = np.roll(reference, 1, 0)
    classes = range(60)
    surface_scores(reference[:4], prediction[:4], classes, (1, 1, 1), 1.0)  # compiles
    began = time.process_time()
    surface_scores(reference, prediction, classes, (1, 1, 1), 1.0)
    ours = time.process_time() - began
    for value in classes:
        by_the_package(reference == value, prediction == value, (1, 1, 1), 1.0)
    assert time.process_time() - began - ours > 2 * ours
