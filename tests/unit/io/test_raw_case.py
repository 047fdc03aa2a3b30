import hashlib
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from stunet.errors import DataError, VolumeError
from stunet.io.raw_case import annotated_values, read_case, sha256_of, source_hashes
from stunet.types import RawCase, RawDataset

LABELS = {"background": 0, "liver": 1, "spleen": 2}


def save(path, array, shift_mm=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2, 3, 1])
    affine[0, 3] = shift_mm
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def case(tmp_path) -> RawCase:
    rng = np.random.default_rng(0)
    images = [
        save(tmp_path / f"a_000{channel}.nii.gz", rng.normal(size=(4, 5, 6)).astype(np.float32))
        for channel in range(2)
    ]
    label = save(tmp_path / "a.nii.gz", rng.integers(0, 3, (4, 5, 6)).astype(np.uint8))
    return RawCase("a", tuple(images), label)


def dataset(channels: int = 2) -> RawDataset:
    names = ("T1", "T2", "PD")[:channels]
    return RawDataset("toy", "pairs", names, LABELS, None, ())


def test_channels_in_order_and_the_label_on_one_grid(case):
    image, label = read_case(case, dataset())
    for channel, path in enumerate(case.images):
        assert np.array_equal(image.array[channel], nib.load(path).get_fdata().T.astype("f4"))
    assert np.array_equal(label.array[0], np.asarray(nib.load(case.label).dataobj).T)


def test_a_folder_of_masks_is_merged(case, tmp_path):
    label = np.asarray(nib.load(case.label).dataobj)
    for name, value in LABELS.items():
        save(tmp_path / "masks" / f"{name}.nii.gz", (label == value).astype(np.uint8))
    masks = RawCase("a", case.images, str(tmp_path / "masks"))
    assert np.array_equal(read_case(masks, dataset())[1].array[0], label.T)


def test_a_numbering_of_its_own_becomes_that_of_the_data_set(case):
    own = RawCase("a", case.images, case.label, label_map={"milt": (1, 700), "lever": (2, 1)})
    raw = RawDataset(
        "two", "union", ("T1", "T2"), {"background": 0, "liver": 1, "z": 700}, None, ()
    )
    stored = np.asarray(nib.load(case.label).dataobj).T
    label = read_case(own, raw)[1].array[0]
    assert label.dtype == np.uint16
    assert np.array_equal(label, np.choose(stored, [0, 700, 1]))


def test_masks_overlap_in_the_order_of_their_own_data_set(case, tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "masks" / f"{name}.nii.gz", np.ones((4, 5, 6), np.uint8))
    labels = {"background": 0, "b": 1, "a": 2}
    raw = RawDataset("two", "union", ("T1", "T2"), labels, None, ())
    masks = RawCase("a", case.images, str(tmp_path / "masks"), label_map={"a": (1, 2), "b": (2, 1)})
    assert np.unique(read_case(masks, raw)[1].array) == [1]  # b has the higher value at home


def test_only_annotated_masks_have_to_be_there(case, tmp_path):
    label = np.asarray(nib.load(case.label).dataobj)
    save(tmp_path / "masks" / "liver.nii.gz", (label == 1).astype(np.uint8))
    partly = RawCase("a", case.images, str(tmp_path / "masks"), annotated=("liver",))
    assert np.array_equal(read_case(partly, dataset())[1].array[0], (label == 1).T)
    assert annotated_values(partly, dataset()) == (1,)
    assert annotated_values(case, dataset()) is None


def test_values_without_a_name_are_refused_with_case_and_value(case):
    spleen = int((np.asarray(nib.load(case.label).dataobj) == 2).sum())
    liver_only = RawDataset("toy", "pairs", ("T1", "T2"), {"background": 0, "liver": 1}, None, ())
    message = rf"case a: label value 2 \({spleen} voxels\) in .*a.nii.gz is not in the label space"
    with pytest.raises(DataError, match=message):
        read_case(case, liver_only)
    ignoring = RawDataset("toy", "pairs", ("T1", "T2"), {"background": 0, "liver": 1}, 2, ())
    assert read_case(case, ignoring)[1].array.max() == 2
    mapped = RawCase("a", case.images, case.label, label_map={"lever": (1, 2)})
    with pytest.raises(DataError, match="case a: label value 2"):
        read_case(mapped, dataset())
    unnamed = RawDataset("toy", "pairs", ("T1", "T2"), {"background": 0}, None, ())
    assert read_case(case, unnamed)[1].array.max() == 2


def test_voxels_of_a_structure_that_is_said_not_to_be_annotated(case):
    partly = RawCase("a", case.images, case.label, annotated=("liver",))
    with pytest.raises(DataError, match=r"case a: spleen has \d+ voxels .* not to be annotated"):
        read_case(partly, dataset())
    ignoring = RawDataset("toy", "pairs", ("T1", "T2"), {"background": 0, "liver": 1}, 2, ())
    assert read_case(partly, ignoring)[1].array.max() == 2


def test_how_a_label_is_understood_is_part_of_its_source(case):
    plain = source_hashes(case)
    hashes = [
        source_hashes(RawCase("a", case.images, case.label, **how))
        for how in (
            {"label_map": {"liver": (1, 2), "spleen": (2, 1)}},
            {"label_map": {"liver": (1, 1), "spleen": (2, 2)}},
            {"annotated": ("liver",)},
        )
    ]
    assert len({each["label_map"] for each in hashes}) == 3
    assert all(plain.items() <= each.items() for each in hashes)


def test_what_is_missing_or_does_not_fit_is_refused(case, tmp_path):
    with pytest.raises(DataError, match="case a: has no label"):
        read_case(RawCase("a", case.images, None), dataset())
    with pytest.raises(DataError, match=r"has 2 channels .* declares 3 \(T1, T2, PD\)"):
        read_case(case, dataset(channels=3))
    moved = save(tmp_path / "moved.nii.gz", np.zeros((4, 5, 6), np.uint8), shift_mm=30)
    with pytest.raises(VolumeError, match="30 mm"):
        read_case(RawCase("a", case.images, moved), dataset())


def test_hashes_follow_content_not_place(case, tmp_path):
    hashes = source_hashes(case)
    assert list(hashes) == ["image_0000", "image_0001", "label"]
    content = Path(case.images[1]).read_bytes()
    assert hashes["image_0001"] == hashlib.sha256(content).hexdigest()
    series = tmp_path / "series"
    shutil.copytree(tmp_path, series)
    copy = shutil.copytree(series, tmp_path / "copy")
    assert sha256_of(copy) == sha256_of(series)
    (copy / "a.nii.gz").rename(copy / "b.nii.gz")
    assert sha256_of(copy) != sha256_of(series)
    with pytest.raises(DataError, match="cannot be read"):
        sha256_of(tmp_path / "absent")
