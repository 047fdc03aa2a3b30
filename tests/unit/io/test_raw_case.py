import hashlib
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from stunet.errors import DataError, VolumeError
from stunet.io.raw_case import read_case, sha256_of, source_hashes
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
