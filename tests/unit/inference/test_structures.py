import numpy as np
import pytest

from stunet.inference.structures import Structure, describe_structures
from stunet.io.volume import volume_of_array

AFFINE = np.diag([2.0, 2.0, 5.0, 1])  # 20 mm^3 a voxel
LABELS = {"background": 0, "liver": 1, "spleen": 2, "absent": 7}


def test_volume_mean_and_border_by_hand():
    values = np.arange(6 * 5 * 4 * 2, dtype=np.int16).reshape(6, 5, 4, 2)
    image = volume_of_array(values, AFFINE)
    label_xyz = np.zeros((6, 5, 4), np.uint8)
    label_xyz[2:4, 2, 1] = 1
    label_xyz[5, 2, 2] = 2
    found = describe_structures(image, label_xyz.T, LABELS, ("CT", "PET"))
    liver = values[2:4, 2, 1]
    assert found["liver"] == Structure(
        1, 2, pytest.approx(0.04), {"CT": liver[:, 0].mean(), "PET": liver[:, 1].mean()}, False
    )
    assert found["spleen"].touches_border
    assert found["spleen"].mean_intensity["PET"] == values[5, 2, 2, 1]
    assert found["absent"] == Structure(7, 0, 0.0, {}, False)
    assert list(found) == ["liver", "spleen", "absent"]


@pytest.mark.parametrize(
    "place", [(0, 2, 2), (5, 2, 2), (2, 0, 2), (2, 4, 2), (2, 2, 0), (2, 2, 3)]
)
def test_every_face_is_a_border(place):
    label_xyz = np.zeros((6, 5, 4), np.uint8)
    label_xyz[place] = 1
    image = volume_of_array(np.zeros((6, 5, 4), np.int16), AFFINE)
    assert describe_structures(image, label_xyz.T, LABELS, ("CT",))["liver"].touches_border


def test_an_axis_of_one_slice_has_no_faces():
    label_xyz = np.zeros((6, 5, 1), np.uint8)
    label_xyz[2, 2, 0] = 1
    image = volume_of_array(np.zeros((6, 5, 1), np.int16), AFFINE)
    assert not describe_structures(image, label_xyz.T, LABELS, ("CT",))["liver"].touches_border
