"""Which way up slices are shown, what of a volume is shown, and how structures are coloured."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from data_tools.scan import scan_of
from stunet.planes import PLANES, Plane, choose_window, colours, fullest, overlay, spread

WORLD = {"R": (2, 1), "L": (2, -1), "A": (1, 1), "P": (1, -1), "S": (0, 1), "I": (0, -1)}


@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_letters_name_the_sides_of_the_picture(plane: Plane) -> None:
    """The voxel furthest towards each letter's side lies at that side of the picture."""
    shape = (5, 6, 7)
    for letter, side in zip(plane.letters, ("left", "right", "top", "bottom"), strict=True):
        axis, sign = WORLD[letter]
        index = np.indices(shape)[axis] * sign  # grows towards the letter
        picture = plane.cut(index, 2)
        towards = {"left": picture[:, 0], "right": picture[:, -1]}
        towards |= {"top": picture[0], "bottom": picture[-1]}
        assert (towards[side] == index.max()).all()


def test_patient_right_and_anterior_and_superior() -> None:
    volume = np.zeros((4, 5, 6))
    volume[-1, -1, -1] = 1  # the corner Right, Anterior, Superior
    for plane, index in zip(PLANES, (3, 4, 5), strict=True):
        assert plane.cut(volume, index)[0, 0] == 1


def test_true_size() -> None:
    sizes = [plane.size_mm((10, 20, 30), (5.0, 2.0, 1.0)) for plane in PLANES]
    assert sizes == [(40, 30), (50, 30), (50, 40)]


def test_window_of_ct_and_of_other_images() -> None:
    rng = np.random.default_rng(0)
    ct = np.where(rng.random((20, 20, 20)) < 0.3, -1000, rng.integers(-150, 1500, (20, 20, 20)))
    assert choose_window(ct)[:2] == (-160, 240)
    phase = rng.integers(-4096, 4096, (20, 20, 20))
    assert choose_window(phase)[:2] != (-160, 240)
    mr = np.concatenate([np.zeros(5000), np.linspace(100, 200, 5001)]).reshape(-1, 1, 1)
    assert_allclose(choose_window(mr)[:2], (101, 199.5))
    assert choose_window(np.full((2, 2, 2), 7.0))[:2] == (7, 8)


def test_slices_spread_over_what_is_occupied() -> None:
    occupied = np.zeros(100, bool)
    occupied[20:41] = True
    assert spread(occupied, 3) == [25, 30, 35]
    assert spread(np.zeros(3, bool), 6) == [0, 1, 2]
    assert spread(np.ones(1, bool), 6) == [0]


def test_fullest_slice() -> None:
    label = np.zeros((5, 6, 7), bool)
    label[3, 1:4, 2] = label[1, 2, 2] = True
    assert [fullest(label, axis) for axis in range(3)] == [3, 2, 2]
    assert fullest(np.zeros((5, 6, 7), bool), 1) == 3


def test_colours_differ() -> None:
    palette = colours(list(range(1, 118)))
    assert len(set(palette.values())) == 117
    assert all(max(colour) >= 0.7 for colour in palette.values())


def test_structures_are_filled_and_outlined() -> None:
    label = np.zeros((6, 6), np.uint16)
    label[1:5, 1:5] = 300
    label[0, 0] = 9  # no colour: an ignored value
    rgba = overlay(label, {300: (1.0, 0.5, 0.0)}, magnify=3)
    assert rgba.shape == (18, 18, 4)
    opacity = rgba[..., 3]
    assert (opacity[:3] == 0).all()
    assert (opacity[4:14, 4:14] == np.float32(0.35)).all()
    ring = opacity[3:15, 3:15].copy()
    ring[1:-1, 1:-1] = 0.95
    assert_allclose(ring, 0.95)
    assert_allclose(rgba[9, 9, :3], (1, 0.5, 0))


def test_only_the_surroundings_of_the_labels_are_shown() -> None:
    image = np.zeros((100, 100, 100), np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[50:53, 60, 70:80] = 1
    affine = np.diag([4.0, 4, 10, 1])
    affine[:3, 3] = (-5, 6, 7)
    scan = scan_of("a", "b", image, label, (10, 4, 4), affine)
    assert scan.shape_zyx == (3 + 8, 1 + 20, 10 + 20)  # 40 mm on each side
    z, y, x = np.argwhere(scan.label_zyx)[0]
    assert_allclose(scan.affine @ (x, y, z, 1), affine @ (70, 60, 50, 1))
    picture = scan.picture(PLANES[0], int(z))
    assert picture.position == "S 507"
    assert picture.label_rc.sum() == 10
    assert (picture.height_mm, picture.width_mm) == (84, 120)
