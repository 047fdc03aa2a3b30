"""`show` says what a file or a store holds, and draws it the right way round."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from data_tools import contact_sheet as sheet
from data_tools.show import show
from stunet.errors import DataError, VolumeError

SHAPE = (20, 24, 16)  # i j k
RIGHT, LEFT = 1, 2


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, Path]:
    """A CT stored LPS with a block in the patient's right and one in the left."""
    affine = np.diag([-2.0, -2.0, 5.0, 1.0])
    affine[:3, 3] = (19, 23, -100)
    rng = np.random.default_rng(0)
    image = rng.integers(-50, 50, SHAPE).astype(np.int16)
    image[:, :8] = -1000
    label = np.zeros(SHAPE, np.uint8)
    label[2:8, 10:20, 4:12] = RIGHT  # i runs to the left: low i is the right side
    label[12:18, 10:20, 4:12] = LEFT
    for name, data in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "labels.json").write_text(json.dumps({"background": 0, "kidney_right": RIGHT}))
    return tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"


def cell(png: np.ndarray, row_top: float, row_height: float, column: int) -> np.ndarray:
    """The pixels of one cell, given the row's place in inches."""
    left = sheet.MARGIN + sheet.NAME + column * (sheet.CELL + sheet.GAP)
    inches = (row_top, row_top + row_height, left, left + sheet.CELL)
    top, bottom, first, last = (round(inch * sheet.DOTS_PER_INCH) for inch in inches)
    return png[top:bottom, first:last, :3]


def test_text_of_an_image_and_its_label(scan: tuple[Path, Path]) -> None:
    lines = dict(line.split(maxsplit=1) for line in show(scan[0], label=scan[1]).splitlines())
    assert lines["file"] == f"{scan[0]} (nifti)"
    assert lines["shape"] == "16 × 24 × 20 voxels (z, y, x), 1 channel, int16"
    assert lines["spacing"] == "5 × 2 × 2 mm (z, y, x)"
    assert lines["extent"] == "80 × 48 × 40 mm (z, y, x)"
    assert lines["orientation"] == "stored LPS, shown RAS+"
    assert lines["origin"] == "stored (19, 23, -100) mm (x, y, z)"
    assert lines["values"].startswith("-1000 to 49, percentiles 0.5: -1000, 50: ")
    assert lines["1"] == "kidney_right: 480 voxels, 9.6 ml"
    assert lines["2"] == "label 2: 480 voxels, 9.6 ml"


def test_text_of_an_oblique_4d_image(tmp_path: Path) -> None:
    turn = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5, 2), np.float32), affine), tmp_path / "a.nii")
    text = show(tmp_path / "a.nii")
    assert "2 channels, float32" in text
    assert "stored RAS, shown RAS+, 20.0 degrees oblique" in text
    assert "values 1     1 to 1" in text


def test_patient_right_is_on_the_left_of_the_picture(
    scan: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "sheet.png"
    show(scan[0], out, scan[1])
    png = imread(out)
    # axial cells are 40 mm wide and 48 mm high, hence limited by their width
    axial = cell(png, sheet.HEAD, sheet.CELL * 48 / 40, 2)
    reddish = axial[..., 0] - axial[..., 2] > 0.15  # the first colour
    bluish = axial[..., 2] - axial[..., 0] > 0.15  # the second
    assert reddish.sum() > 1000
    assert bluish.sum() > 1000
    assert np.nonzero(reddish)[1].max() < axial.shape[1] / 2 < np.nonzero(bluish)[1].min()
    air = axial.mean(axis=2) < 0.05  # j < 8 is anterior in LPS
    assert air[: axial.shape[0] // 4].mean() > 0.9
    assert air[axial.shape[0] // 2 :].mean() < 0.1


def test_a_scan_without_label_and_a_single_slice_are_drawn(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(30, 40, 1)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "slice.nii")
    nib.save(nib.Nifti1Image(data[:1, :1], np.eye(4)), tmp_path / "voxel.nii")
    for name in ("slice", "voxel"):
        show(tmp_path / f"{name}.nii", tmp_path / f"{name}.png")
        assert imread(tmp_path / f"{name}.png").shape[1] > 1000


def test_store(small_store: Any, tmp_path: Path) -> None:
    text = show(small_store.root, tmp_path / "store.png")
    assert "cases        2\n" in text
    assert "labels       1 liver, 2 spleen, 7 dot" in text
    assert "a            70 × 40 × 50 voxels, 4 labels, train" in text
    png = imread(tmp_path / "store.png")
    width = sheet.MARGIN * 2 + sheet.NAME + 3 * (sheet.CELL + sheet.GAP) + sheet.LEGEND
    assert png.shape[1] == pytest.approx(width * sheet.DOTS_PER_INCH, abs=1)


def test_refusals(small_store: Any, scan: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="a store has its labels inside"):
        show(small_store.root, label=scan[1])
    (tmp_path / "labels.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"labels\.json: is no table of names"):
        show(scan[0], label=scan[1])
    with pytest.raises(VolumeError, match="holds no DICOM image"):
        show(small_store.root / "cases")
