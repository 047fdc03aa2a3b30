import json
from dataclasses import replace
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from data_tools.phantom import PhantomConfig, render_case, smallest_shape, write_phantom
from data_tools.phantom_anatomy import STRUCTURES, VERTEBRAE
from stunet.errors import ConfigError

SMALL = PhantomConfig(cases=2, classes=8, shape_zyx=(32, 40, 48), spacing_mm=(8.0, 8.0, 8.0))
MM4 = (4.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def trunk() -> tuple[np.ndarray, np.ndarray]:
    """One case with all 104 structures."""
    return render_case(PhantomConfig(classes=104, shape_zyx=(96, 96, 96)), 0)


def centroid(label: np.ndarray, name: str) -> np.ndarray:
    """Mean voxel index, z y x: upwards, forwards and to the patient's right in an RAS+ array."""
    return np.argwhere(label == STRUCTURES.index(name) + 1).mean(axis=0)


def test_files_are_pairs_in_ras_with_named_labels(tmp_path):
    config = replace(SMALL, shape_zyx=(60, 60, 64), spacing_mm=(5.0, 6.0, 6.5))
    out = write_phantom(tmp_path / "phantom", config)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    pairs = [f"{folder}/phantom_00{i}.nii.gz" for folder in ("images", "labels") for i in (0, 1)]
    assert files == sorted([*pairs, "labels.json"])
    labels = json.loads((out / "labels.json").read_text())
    assert labels == config.labels
    assert list(labels.items())[:3] == [("background", 0), ("liver", 1), ("spleen", 2)]
    for pair, dtype in zip(pairs, (np.int16, np.int16, np.uint8, np.uint8), strict=True):
        image = nib.load(out / pair)
        assert image.shape == (64, 60, 60) and image.get_data_dtype() == dtype
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_allclose(image.header.get_zooms(), (6.5, 6.0, 5.0))
        assert image.header.get_xyzt_units()[0] == "mm"
    stored = np.asarray(nib.load(out / pairs[3]).dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(stored, render_case(config, 1)[1])


def test_the_liver_is_on_the_patients_right_for_an_independent_reader(tmp_path):
    out = write_phantom(tmp_path / "phantom", replace(SMALL, cases=1))
    image = SimpleITK.ReadImage(str(out / "labels" / "phantom_000.nii.gz"))
    statistics = SimpleITK.LabelShapeStatisticsImageFilter()
    statistics.Execute(image)
    left_mm = {name: statistics.GetCentroid(i + 1)[0] for i, name in enumerate(STRUCTURES[:8])}
    assert left_mm["liver"] < left_mm["spleen"] - 50  # SimpleITK counts x towards the Left
    assert left_mm["kidney_right"] < left_mm["kidney_left"] - 50
    assert left_mm["lung_right"] < left_mm["lung_left"] - 50


def test_two_runs_give_the_same_bytes(tmp_path):
    first = write_phantom(tmp_path / "first", SMALL)
    second = write_phantom(tmp_path / "second", SMALL)
    for path in first.rglob("*.*"):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_a_case_depends_on_seed_and_index_only():
    image, label = render_case(SMALL, 1)
    again, _ = render_case(replace(SMALL, cases=50), 1)
    np.testing.assert_array_equal(again, image)
    for other in (render_case(SMALL, 0), render_case(replace(SMALL, seed=1), 1)):
        assert (other[0] != image).mean() > 0.5
        assert (other[1] != label).any()


def test_fewer_classes_are_the_same_scan_with_fewer_labels():
    image, label = render_case(replace(SMALL, classes=16), 0)
    fewer_image, fewer = render_case(replace(SMALL, classes=3), 0)
    np.testing.assert_array_equal(fewer_image, image)
    np.testing.assert_array_equal(fewer, np.where(label <= 3, label, 0))


def test_structure_names_are_104_and_unique():
    assert len(STRUCTURES) == len(set(STRUCTURES)) == 104


@pytest.mark.parametrize("classes", [16, 56, 104])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_structure_shows_in_the_smallest_shape(classes, seed):
    shape = smallest_shape(classes, MM4)
    config = PhantomConfig(classes=classes, shape_zyx=shape, spacing_mm=MM4, seed=seed)
    counts = np.bincount(render_case(config, 0)[1].ravel(), minlength=classes + 1)
    assert len(counts) == classes + 1
    assert counts.min() >= 8, STRUCTURES[counts.argmin() - 1]


@pytest.mark.parametrize("spacing_mm", [MM4, (5.0, 1.0, 1.5)])
@pytest.mark.parametrize("classes", [2, 104])
def test_a_smaller_shape_is_refused_and_the_message_names_one_that_works(classes, spacing_mm):
    shape = smallest_shape(classes, spacing_mm)
    PhantomConfig(classes=classes, shape_zyx=shape, spacing_mm=spacing_mm)
    for axis in range(3):
        less = tuple(n - (i == axis) for i, n in enumerate(shape))
        with pytest.raises(ConfigError) as caught:
            PhantomConfig(classes=classes, shape_zyx=less, spacing_mm=spacing_mm)
        assert str(shape) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 1},
        {"classes": 105},
        {"cases": 0},
        {"seed": -1},
        {"spacing_mm": (4.0, 0.0, 4.0)},
        {"shape_zyx": (0, 80, 96)},
    ],
)
def test_values_out_of_range_are_refused(change):
    name, value = next(iter(change.items()))
    with pytest.raises(ConfigError, match=name) as caught:
        PhantomConfig(**change)
    assert str(value) in str(caught.value)


def test_a_folder_with_other_scans_is_left_alone(tmp_path):
    write_phantom(tmp_path, SMALL)
    with pytest.raises(ConfigError, match=r"phantom_001\.nii\.gz"):
        write_phantom(tmp_path, replace(SMALL, cases=1))


def test_left_and_right_are_anatomical(trunk):
    _, label = trunk
    sided = [name for name in STRUCTURES if "right" in name]
    assert len(sided) == 31
    for name in sided:
        right, left = centroid(label, name), centroid(label, name.replace("right", "left"))
        assert right[2] > left[2] + 1, name
    middle = centroid(label, "spinal_cord")[2]
    for name in ("liver", "gallbladder", "inferior_vena_cava"):
        assert centroid(label, name)[2] > middle
    for name in ("spleen", "stomach", "heart", "aorta"):
        assert centroid(label, name)[2] < middle


def test_organs_lie_above_and_before_each_other_as_in_a_body(trunk):
    _, label = trunk
    upwards = [f"vertebrae_{level}" for level in VERTEBRAE]
    heights = [centroid(label, name)[0] for name in ("sacrum", *upwards)]
    assert (np.diff(heights) > 1).all()
    for side in ("left", "right"):
        ribs = [centroid(label, f"rib_{side}_{i}")[0] for i in range(1, 13)]
        assert (np.diff(ribs) < -1).all()
    stack = ("urinary_bladder", "small_bowel", "kidney_right", "liver", "heart", "thyroid_gland")
    assert (np.diff([centroid(label, name)[0] for name in stack]) > 0).all()
    forwards = ("autochthon_left", "aorta", "small_bowel", "rectus_abdominis_left")
    assert (np.diff([centroid(label, name)[1] for name in forwards]) > 0).all()


def test_hounsfield_values_are_plausible(trunk):
    image, label = trunk

    def median_hu(name: str) -> float:
        return float(np.median(image[label == STRUCTURES.index(name) + 1]))

    for name, low, high in (
        ("lung_left", -920, -780),
        ("liver", 85, 130),
        ("spleen", 110, 160),
        ("kidney_right", 160, 230),
        ("aorta", 110, 210),
        ("urinary_bladder", -20, 40),
        ("autochthon_left", 25, 75),
        ("femur_left", 200, 900),
    ):
        assert low < median_hu(name) < high, name
    assert median_hu("kidney_right") > median_hu("liver") > median_hu("autochthon_left")
    corner = image[:8, -8:, :8].astype(float)
    assert corner.mean() == pytest.approx(-1000, abs=15) and 3 < corner.std() < 25


def test_twice_the_resolution_shows_the_same_patient():
    coarse = PhantomConfig(shape_zyx=(32, 40, 48), spacing_mm=(8.0, 8.0, 8.0))
    fine = PhantomConfig(shape_zyx=(64, 80, 96), spacing_mm=(4.0, 4.0, 4.0))
    small, large = render_case(coarse, 0)[1], render_case(fine, 0)[1]
    for value, name in enumerate(STRUCTURES[:8], start=1):
        assert 8 * (small == value).sum() == pytest.approx((large == value).sum(), rel=0.06), name
        shift = 2 * centroid(small, name) + 0.5 - centroid(large, name)
        assert np.abs(shift).max() < 0.6, name


def test_patients_differ_but_not_much():
    liver = [render_case(SMALL, case)[1] == 1 for case in range(4)]
    for first, second in pairwise(liver):
        dice = 2 * (first & second).sum() / (first.sum() + second.sum())
        assert 0.6 < dice < 0.97
