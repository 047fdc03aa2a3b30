from itertools import pairwise

import numpy as np
import pytest

from data_tools.phantom_shapes import Ball, Blend, Capsule, Loft, Wedge, rotation, tube

GRID = tuple(  # holds the origin, and a point at the centre of some solids
    axis.astype(np.float32) for axis in np.meshgrid(*[np.arange(-40, 41, 2.0)] * 3, indexing="ij")
)
SOLIDS = {
    "ball": Ball((3, -4, 5), (20, 8, 12), 2.0, (20, -35, 50)),
    "box": Ball((3, -4, 5), (20, 8, 12), 6.0, (20, -35, 50)),
    "capsule": Capsule((-15, 2, -9), (12, 10, 8), (9, 4)),
    "blend": Blend((Ball((8, 0, 0), (12, 9, 9)), Ball((-10, 2, 3), (11, 8, 9))), 8.0),
}


def test_sphere_distance_is_exact():
    x, y, z = GRID
    expected = np.sqrt((x - 1) ** 2 + (y + 2) ** 2 + (z - 3) ** 2) - 15
    found = Ball((1, -2, 3), (15, 15, 15)).distance(GRID)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("exponent", [2.0, 3.5])
def test_the_very_centre_of_a_ball_is_inside(exponent):
    centre = tuple(np.zeros(1, np.float32) for _ in range(3))
    assert Ball((0, 0, 0), (20, 8, 12), exponent).distance(centre)[0] < -7


def test_turned_ellipsoid_has_its_tip_where_the_rotation_puts_it():
    turn = (10.0, 20.0, 30.0)
    ball = Ball((0, 0, 0), (30, 5, 5), 2.0, turn)
    tip = rotation(turn) @ [30, 0, 0]
    for factor, sign in ((0.98, -1), (1.02, 1)):
        point = tuple(np.array([part * factor], np.float32) for part in tip)
        assert np.sign(ball.distance(point)[0]) == sign


def test_capsule_distance_is_that_to_the_segment():
    start, end = np.array([-10.0, 0, 5]), np.array([14.0, 8, -3])
    points = np.random.default_rng(0).uniform(-30, 30, (200, 3))
    found = Capsule(tuple(start), tuple(end), (4, 4)).distance(tuple(points.T))
    fine = start + np.linspace(0, 1, 4001)[:, None] * (end - start)
    expected = np.linalg.norm(points[:, None] - fine, axis=2).min(axis=1) - 4
    np.testing.assert_allclose(found, expected, atol=1e-2)


@pytest.mark.parametrize("solid", SOLIDS.values(), ids=SOLIDS.keys())
def test_bounds_hold_the_solid_and_are_not_far_too_wide(solid):
    inside = np.stack([axis[solid.distance(GRID) < 0] for axis in GRID], axis=1)
    low, high = solid.bounds()
    assert (inside >= low).all() and (inside <= high).all()
    assert (inside.max(axis=0) - inside.min(axis=0) > 0.45 * (high - low)).all()


@pytest.mark.parametrize("solid", SOLIDS.values(), ids=SOLIDS.keys())
def test_mirrored_solid_is_the_mirror_image(solid):
    mirrored = solid.mirrored().distance(GRID)
    np.testing.assert_allclose(mirrored, solid.distance(GRID)[::-1], atol=2e-3)


@pytest.mark.parametrize("solid", SOLIDS.values(), ids=SOLIDS.keys())
def test_moved_solid_is_shifted_and_scaled(solid):
    scale, about, offset = 1.3, np.array([2.0, 1, -3]), np.array([5.0, -6, 7])
    moved = solid.moved(scale, about, offset).distance(GRID)
    back = tuple(
        ((axis - a - o) / scale + a).astype(np.float32)
        for axis, a, o in zip(GRID, about, offset, strict=True)
    )
    if isinstance(solid, Blend):  # the fillet keeps its width: compare the plain union
        inside = solid.distance(back) < 0
        assert ((moved < 0) == inside).mean() > 0.99
    else:
        np.testing.assert_allclose(moved, scale * solid.distance(back), atol=5e-3)


def test_blend_fills_the_notch_between_two_balls():
    balls = (Ball((10, 0, 0), (10, 10, 10)), Ball((-10, 0, 0), (10, 10, 10)))
    notch = tuple(np.array([part], np.float32) for part in (0, 1.0, 0))
    assert min(ball.distance(notch)[0] for ball in balls) > 0
    assert Blend(balls, 8.0).distance(notch)[0] < 0


def test_wedge_is_the_intersection_of_its_half_spaces():
    wedge = Wedge((((0.0, 0.0, -2.0), -20.0), ((1.0, 0.0, 0.0), 4.0)), ((-40,) * 3, (40,) * 3))
    x, _, z = GRID
    np.testing.assert_array_equal(wedge.distance(GRID) <= 0, (z >= 10) & (x <= 4))


def test_loft_follows_its_table():
    loft = Loft(((-30, 10, 20, 0), (0, 10, 20, 0), (30, 20, 10, 5)), exponent=2.0)
    x, y, z = GRID
    inside = loft.distance(GRID) < 0
    lower = z == -20
    expected = (x / 10) ** 2 + (y / 20) ** 2 < 1
    np.testing.assert_array_equal(inside[lower], expected[lower])
    assert loft.section(30) == (20, 10, 5)
    assert not inside[np.abs(z) > 30].any()


def test_tube_passes_through_its_points_without_gaps():
    points = ((0, 0, 0), (20, 10, 0), (30, 30, 20))
    pieces = tube(points, (3, 5, 4), step_mm=6)
    assert pieces[0].start == points[0] and pieces[-1].end == pytest.approx(points[-1])
    for first, second in pairwise(pieces):
        assert first.end == second.start and first.radii[1] == second.radii[0]
    middle = tuple(np.array([part], np.float32) for part in points[1])
    assert min(piece.distance(middle)[0] for piece in pieces) == pytest.approx(-5, abs=0.4)
