"""Channels brought onto one grid by world coordinates, against closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from data_tools.align import align, resample_onto
from data_tools.ingest import ingest
from stunet.errors import DataError, VolumeError
from stunet.io.raw_case import read_case
from stunet.io.volume import Volume, volume_of_array

FINE = np.array([[1.0, 0, 0, -8], [0, 1.2, 0, 3], [0, 0, 3.0, -20], [0, 0, 0, 1]])


def rotated(degrees: float, spacing: float, origin: tuple[float, float, float]) -> np.ndarray:
    turn = np.radians(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:3, :3] *= spacing
    affine[:3, 3] = origin
    return affine


def world(affine: np.ndarray, shape_zyx: tuple[int, int, int]) -> np.ndarray:
    """(3, Z, Y, X): x, y, z in mm of every voxel centre."""
    z, y, x = np.indices(shape_zyx)
    return np.einsum("ij,jzyx->izyx", affine[:3], np.stack([x, y, z, np.ones_like(z)]))


def ramp(affine: np.ndarray, shape_zyx: tuple[int, int, int]) -> np.ndarray:
    x, y, z = world(affine, shape_zyx)
    return (100 + 2 * x - 3 * y + 0.5 * z).astype(np.float32)


def volume(array_zyx: np.ndarray, affine: np.ndarray) -> Volume:
    return volume_of_array(array_zyx.transpose(2, 1, 0), affine)


def test_a_linear_function_of_the_world_is_met_exactly_on_any_grid() -> None:
    coarse = rotated(20, 4.0, (-30, -30, -40))
    like = volume(ramp(FINE, (8, 14, 16)), FINE)
    found, covered = resample_onto(volume(ramp(coarse, (20, 20, 20)), coarse), like)
    assert covered == 1
    np.testing.assert_allclose(found, like.array, atol=2e-3)


def test_outside_of_a_channel_is_its_lowest_value() -> None:
    near = FINE.copy()
    near[0, 3] += 4  # its first voxel centre in x lies on the fifth of the other
    like = volume(np.ones((8, 14, 16), np.float32), FINE)
    moving = volume(ramp(near, (8, 14, 16)), near)
    found, covered = resample_onto(moving, like)
    assert covered == 12 / 16
    assert (found[0, :, :, :4] == moving.array.min()).all()
    np.testing.assert_allclose(found[0, :, :, 4:], moving.array[0, :, :, :12], atol=1e-3)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A case of two channels that lie on different grids of one world."""
    root = tmp_path / "raw"
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    shape = (8, 14, 16)
    save(root / "imagesTr" / "a_0000.nii.gz", ramp(FINE, shape), FINE)
    coarse = rotated(20, 4.0, (-30, -30, -40))
    save(root / "imagesTr" / "a_0001.nii.gz", ramp(coarse, (20, 20, 20)), coarse)
    save(root / "labelsTr" / "a.nii.gz", (world(FINE, shape)[0] > 0).astype(np.uint8), FINE)
    declared = {
        "name": "two",
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "tumour": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "licence": "MIT",
    }
    (root / "dataset.json").write_text(json.dumps(declared))
    return root


def save(path: Path, array_zyx: np.ndarray, affine: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(array_zyx.transpose(2, 1, 0), affine), path)


def test_an_aligned_data_set_is_read_as_one_grid(raw: Path, tmp_path: Path) -> None:
    before = ingest(raw)
    with pytest.raises(VolumeError, match="'stunet data align' brings them onto one grid"):
        read_case(before.cases[0], before)
    after = ingest(align(before, tmp_path / "aligned"))
    image, label = read_case(after.cases[0], after)
    np.testing.assert_allclose(image.array[1], image.array[0], atol=5e-3)
    np.testing.assert_allclose(image.affine, FINE, atol=1e-5)
    assert (label.array[0] == (world(FINE, (8, 14, 16))[0] > 0)).all()
    assert (after.channel_names, after.labels, after.licence) == (
        before.channel_names,
        before.labels,
        before.licence,
    )


def test_a_channel_that_lies_elsewhere_is_refused(raw: Path, tmp_path: Path) -> None:
    far = rotated(0, 4.0, (300, 0, 0))
    save(raw / "imagesTr" / "a_0001.nii.gz", ramp(far, (20, 20, 20)), far)
    with pytest.raises(DataError, match=r"case a: .*a_0001.nii.gz covers 0% of .*registered"):
        align(ingest(raw), tmp_path / "aligned")
