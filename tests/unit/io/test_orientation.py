"""Swaps and flips against nibabel's own reorientation, for every orientation there is."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from stunet.io.orientation import axis_codes, orientation_of, spacing_zyx_mm

SIGNED_PERMUTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def signed_affine(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """Stored axis a points to world axis order[a], forwards or backwards; spacing 1.5, 2, 4 mm."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign, side) in enumerate(zip(order, signs, (1.5, 2.0, 4.0), strict=True)):
        affine[world, axis] = sign * side
    affine[:3, 3] = (-31.0, 17.5, 203.25)
    return affine


@pytest.mark.parametrize(("order", "signs"), SIGNED_PERMUTATIONS)
def test_equals_nibabel_closest_canonical(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    affine = signed_affine(order, signs)
    data_ijk = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data_ijk, affine))

    orientation = orientation_of(affine)
    stored_ckji = data_ijk.T[None]
    oriented = orientation.to_zyx(stored_ckji)

    assert np.array_equal(oriented[0].T, canonical.dataobj)
    assert_allclose(
        orientation.affine(affine, oriented.shape[1:]), canonical.affine, rtol=0, atol=1e-12
    )
    assert np.array_equal(orientation.to_stored(oriented), stored_ckji)


def test_views_share_memory() -> None:
    orientation = orientation_of(np.diag([-2.0, -2, 3, 1]))
    stored = np.zeros((2, 3, 4, 5), np.float32)
    assert np.shares_memory(orientation.to_zyx(stored), stored)


def test_oblique_axes_stay_oblique() -> None:
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oriented = orientation_of(affine).affine(affine, (5, 5, 5))
    assert np.array_equal(oriented, affine)


def test_names_and_sizes() -> None:
    affine = np.diag([-1.5, -2.0, 4.0, 1])
    assert axis_codes(affine) == "LPS"
    assert spacing_zyx_mm(affine) == (4.0, 2.0, 1.5)
