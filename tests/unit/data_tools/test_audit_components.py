"""Pieces of a label map, against scipy's labelling of each value on its own."""

import numpy as np
import pytest
from scipy import ndimage

from data_tools.audit_components import NOTHING, SEVERAL, Components, find_components


def blobs(seed: int, shape: tuple[int, int, int], labels: int) -> np.ndarray:
    """Smooth noise cut into levels: pieces of all sizes, nested, touching over corners too."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 0.7)
    return np.digitize(smooth, np.quantile(smooth, np.linspace(0.4, 0.95, labels))).astype(np.uint8)


def rows(components: Components) -> set[tuple]:
    return {
        (int(value), int(voxels), *map(float, sums), *map(int, low), *map(int, high))
        for value, voxels, sums, low, high in zip(
            components.value,
            components.voxels,
            components.sums,
            components.low,
            components.high,
            strict=True,
        )
    }


def expected(label: np.ndarray) -> set[tuple]:
    found = set()
    for value in np.unique(label):
        structure = ndimage.generate_binary_structure(3, 1 if value == 0 else 3)
        pieces, count = ndimage.label(label == value, structure)
        for piece in range(1, count + 1):
            at = np.argwhere(pieces == piece)
            found.add((int(value), len(at), *at.sum(0), *at.min(0), *at.max(0)))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_pieces_are_those_of_scipy(seed: int) -> None:
    label = blobs(seed, (9, 14, 17 + seed), labels=3)
    found = find_components(label)
    assert rows(found) == expected(label)
    assert len(found.value) == len(rows(found))


def test_the_cost_of_labels_is_none_in_the_result() -> None:
    label = blobs(7, (12, 12, 12), labels=1)
    relabelled = np.where(label > 0, 1000, 0).astype(np.uint16)
    assert (find_components(label).voxels == find_components(relabelled).voxels).all()


def test_what_surrounds_a_piece() -> None:
    label = np.zeros((7, 7, 12), np.uint8)
    label[1:6, 1:6, 1:6] = 1
    label[3, 3, 3] = 0  # a hole in 1
    label[1:6, 1:6, 6:11] = 2
    label[3, 3, 5:7] = 0  # a hole between 1 and 2
    label[2, 2, 9] = 3  # 3 inside 2
    found = find_components(label)
    around = dict(zip(zip(found.value, found.voxels, strict=True), found.around, strict=True))
    assert around[0, 1] == 1
    assert around[0, 2] == SEVERAL
    assert around[3, 1] == 2
    assert around[2, 5 * 5 * 5 - 2] == SEVERAL
    inside = ~found.touches(label.shape).any(axis=1) & (found.value == 0)
    assert sorted(found.voxels[inside]) == [1, 2]
    assert find_components(np.ones((2, 2, 2), np.uint8)).around.tolist() == [NOTHING]


def test_a_diagonal_wall_closes_no_hole_and_joins_a_structure() -> None:
    label = np.zeros((1, 5, 5), np.uint8)
    label[0, [1, 2, 2, 3], [2, 1, 3, 2]] = 1  # a diamond of corners
    found = find_components(label)
    assert sorted(zip(found.value, found.voxels, strict=True)) == [(0, 1), (0, 20), (1, 4)]


def test_the_points_of_a_piece_are_its_voxels() -> None:
    label = blobs(3, (9, 14, 17), labels=3)
    found = find_components(label)
    largest = int(np.where(found.value == 2, found.voxels, 0).argmax())
    pieces, _ = ndimage.label(label == 2, np.ones((3, 3, 3)))
    points = found.points(largest, at_most=10**6)
    assert (points == np.argwhere(pieces == pieces[tuple(points[0])])).all()
    thinned = found.points(largest, at_most=10)
    assert 5 <= len(thinned) <= 10
    assert {*map(tuple, thinned)} <= {*map(tuple, points)}
