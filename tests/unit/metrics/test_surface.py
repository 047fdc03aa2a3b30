import math
import tracemalloc

import numpy as np
import pytest

from stunet.errors import DataError
from stunet.metrics.surface import SurfaceScores, surface_scores
from stunet.metrics.surfels import find_surfels, surfel_areas

ISOTROPIC = (1.0, 1.0, 1.0)


def box(shape: tuple[int, int, int], *corners: tuple[slice, slice, slice]) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    for value, corner in enumerate(corners, start=1):
        label[corner] = value
    return label


def test_area_of_a_brick_is_that_of_its_faces_edges_and_corners() -> None:
    """Faces at half a voxel from the outermost centres, edges and corners cut off."""
    sz, sy, sx = spacing_mm = (2.0, 0.5, 3.0)
    brick = box((9, 9, 9), np.s_[2:6, 1:8, 3:6])  # 4 x 7 x 3 voxels
    (surface,) = find_surfels(brick, [1])
    a, b, c = 3 * sz, 6 * sy, 2 * sx  # between the outermost centres
    faces = 2 * (a * b + b * c + a * c)
    edges = 4 * (a * math.hypot(sy, sx) + b * math.hypot(sz, sx) + c * math.hypot(sz, sy)) / 2
    corners = math.hypot(sy * sx, sz * sx, sz * sy)
    assert surfel_areas(spacing_mm)[surface.code].sum() == pytest.approx(faces + edges + corners)


def test_surfels_lie_at_the_corners_of_a_voxel_in_raster_order() -> None:
    (surface,) = find_surfels(box((4, 4, 4), np.s_[1:2, 0:1, 3:4]), [1])
    expected = [(z, y, x) for z in (1, 2) for y in (0, 1) for x in (3, 4)]
    assert surface.corner.tolist() == [list(corner) for corner in expected]
    assert surface.code.tolist() == [128, 64, 32, 16, 8, 4, 2, 1]  # the voxel is the last of eight


def test_distance_of_two_voxels() -> None:
    reference = box((3, 3, 12), np.s_[1:2, 1:2, 1:2])
    prediction = box((3, 3, 12), np.s_[1:2, 1:2, 8:9])
    far = surface_scores(reference, prediction, [1], (1.0, 1.0, 0.5), 3.0)[1]
    assert far == SurfaceScores(nsd=0.5, hd95_mm=3.5)  # the near half at 3 mm, the rest at 3.5


def test_hd95_leaves_five_percent_out() -> None:
    """A far speck of less than 5% of the surface does not count, a larger one does."""
    reference = box((40, 40, 60), np.s_[2:32, 2:32, 2:32])
    speck, lump = reference.copy(), reference.copy()
    speck[10, 10, 55] = 1
    lump[2:20, 2:20, 50:58] = 1
    assert surface_scores(reference, speck, [1], ISOTROPIC, 1.0)[1].hd95_mm == 0
    assert surface_scores(reference, lump, [1], ISOTROPIC, 1.0)[1].hd95_mm > 18


def test_classes_that_one_or_both_lack() -> None:
    reference = box((6, 6, 6), np.s_[1:3, 1:3, 1:3], np.s_[4:5, 4:5, 4:5])
    prediction = np.where(reference == 2, 3, reference)
    scores = surface_scores(reference, prediction, [3, 2, 1, 4], ISOTROPIC, 1.0)
    assert list(scores) == [3, 2, 1, 4]
    assert scores[1] == SurfaceScores(1.0, 0.0)
    for one_has_it in (scores[2], scores[3]):
        assert one_has_it.nsd == 0
        assert math.isnan(one_has_it.hd95_mm)
    assert math.isnan(scores[4].nsd)
    assert math.isnan(scores[4].hd95_mm)


def test_a_tolerance_per_class() -> None:
    reference = box((8, 8, 20), np.s_[2:5, 2:5, 2:5], np.s_[2:5, 2:5, 10:13])
    prediction = np.roll(reference, 2, 2)
    scores = surface_scores(reference, prediction, [1, 2], ISOTROPIC, {1: 2.0, 2: 1.0, 9: 0.0})
    assert scores[1].nsd == 1
    assert scores[2].nsd < 1


def test_any_integer_map_scores_alike() -> None:
    rng = np.random.default_rng(0)
    reference, prediction = rng.integers(0, 4, (2, 8, 9, 10), np.uint8)
    expected = surface_scores(reference, prediction, [1, 3], ISOTROPIC, 1.0)
    wide = [np.where(m == 0, -1, m).astype(">i4") for m in (reference, prediction)]
    wide[1][wide[1] == 2] = 70_000  # in no class, like -1
    strided = [np.asfortranarray(m.astype(np.int16)).repeat(2, 0)[::2] for m in wide[:1]]
    assert surface_scores(strided[0], wide[1], [1, 3], ISOTROPIC, 1.0) == expected
    values = np.array([0, 40_000, 7, 300], np.uint16)
    renamed = surface_scores(
        values[reference], values[prediction], [40_000, 300], (1, 1.0, np.float32(1)), 1
    )
    assert list(renamed.values()) == list(expected.values())


def test_nothing_to_score() -> None:
    empty = np.zeros((3, 3, 3), np.uint8)
    assert surface_scores(empty, empty, [], ISOTROPIC, 1.0) == {}
    no_voxel = np.zeros((0, 3, 3), np.uint8)
    assert math.isnan(surface_scores(no_voxel, no_voxel, [1], ISOTROPIC, 1.0)[1].nsd)


def test_memory_follows_the_surface() -> None:
    """Two structures at opposite ends: a distance transform would need 8 bytes per voxel."""
    reference = box((120, 200, 200), np.s_[1:4, 1:4, 1:4])
    prediction = box((120, 200, 200), np.s_[110:118, 190:198, 190:198])
    surface_scores(reference[:5], prediction[:5], [1], ISOTROPIC, 1.0)  # compiles
    tracemalloc.start()
    surface_scores(reference, prediction, [1], ISOTROPIC, 1.0)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1.2 * reference.nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_zyx": np.zeros((3, 3, 4), np.uint8)}, r"\(3, 3, 3\) and .* \(3, 3, 4\)"),
        ({"prediction_zyx": np.zeros((3, 3, 3), np.float32)}, "prediction is float32; convert"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, r"spacing \(1.0, 0.0, 1.0\) mm is not three positive"),
        ({"classes": [1, 1]}, r"classes \[1, 1\] are not different"),
        ({"classes": [-1]}, r"classes \[-1\] are not different labels 0..65535"),
        ({"tolerance_mm": -1.0}, "class 1 has the tolerance -1.0; give it one >= 0 mm"),
        ({"tolerance_mm": {2: 1.0}}, "class 1 has the tolerance None"),
    ],
)
def test_bad_input_is_one_line(change: dict, message: str) -> None:
    empty = np.zeros((3, 3, 3), np.uint8)
    good = {
        "reference_zyx": empty,
        "prediction_zyx": empty,
        "classes": [1],
        "spacing_mm": ISOTROPIC,
        "tolerance_mm": 1.0,
    }
    with pytest.raises(DataError, match=message) as caught:
        surface_scores(**{**good, **change})
    assert "\n" not in str(caught.value)
