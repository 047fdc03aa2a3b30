import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from stunet.transforms.spatial import (
    Sampling,
    SpatialDraw,
    mirror,
    plan_sampling,
    resample_image,
    thick_axis,
)

PATCH = (20, 24, 28)
ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
SCALES = st.tuples(*[st.floats(0.5, 2)] * 3)
FLIPS = st.tuples(*[st.booleans()] * 3)
SPACINGS = st.tuples(*[st.floats(0.5, 5)] * 3)
SIDES = st.tuples(*[st.integers(1, 40)] * 3)


def window_of(volume_zyx: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The window of a plan, cut from a volume that is zero outside."""
    wide = np.pad(volume_zyx, 100)
    return wide[
        tuple(
            slice(100 + start, 100 + start + size)
            for start, size in zip(sampling.window_start, sampling.window_shape, strict=True)
        )
    ]


def transformed(
    volume_zyx: np.ndarray,
    draw: SpatialDraw,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> np.ndarray:
    """A cubic volume as one patch of its own size."""
    sampling = plan_sampling(draw, spacing, (0, 0, 0), volume_zyx.shape)
    return resample_image(window_of(volume_zyx, sampling)[None].astype(np.float32), sampling)[0]


def smooth_noise(shape: tuple[int, int, int]) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=shape)
    return scipy.ndimage.gaussian_filter(noise, 1.5) * 10


def reference(
    volume: np.ndarray,
    draw: SpatialDraw,
    spacing: tuple[float, float, float],
    start: tuple[int, int, int],
    patch: tuple[int, int, int],
) -> np.ndarray:
    """The same from scipy alone: world coordinates x y z, whole volume, zero outside."""
    turn = Rotation.from_euler("xyz", draw.rotation_deg[::-1], degrees=True)
    to_mm = np.diag(spacing[::-1])
    sign = np.where(draw.mirror[::-1], -1.0, 1.0)
    matrix = np.linalg.inv(to_mm) @ turn.inv().as_matrix() @ to_mm
    matrix = (matrix @ np.diag(draw.scale[::-1]) @ np.diag(sign))[::-1, ::-1]
    middle = (np.array(patch) - 1) / 2
    offset = np.array(start) + middle - matrix @ middle
    wide = np.pad(volume, 1)  # scipy's own border does not blend with zero
    return scipy.ndimage.affine_transform(
        wide, matrix, offset + 1, output_shape=patch, order=1, mode="constant"
    )


@pytest.mark.parametrize(
    "draw",
    [
        SpatialDraw(rotation_deg=(25.0, 0.0, 0.0)),
        SpatialDraw(rotation_deg=(0.0, 25.0, 0.0)),
        SpatialDraw(rotation_deg=(0.0, 0.0, 25.0)),
        SpatialDraw(rotation_deg=(-12.0, 30.0, 17.0), scale=(1.3, 1.3, 1.3)),
        SpatialDraw((10.0, -20.0, 30.0), (0.7, 0.7, 0.7), (True, False, True)),
    ],
)
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (3.0, 1.0, 0.8)])
@pytest.mark.parametrize("start", [(10, 12, 9), (-6, 30, -11)])
def test_image_equals_scipy(
    draw: SpatialDraw, spacing: tuple[float, float, float], start: tuple[int, int, int]
) -> None:
    volume = smooth_noise((48, 44, 52))
    sampling = plan_sampling(draw, spacing, start, PATCH)
    window = np.stack([window_of(volume, sampling), window_of(-2 * volume, sampling)])
    result = resample_image(window.astype(np.float32), sampling)
    expected = reference(volume, draw, spacing, start, PATCH)
    np.testing.assert_allclose(result[0], expected, atol=2e-5)
    np.testing.assert_allclose(result[1], -2 * expected, atol=4e-5)


@pytest.mark.parametrize(
    ("axis", "marked", "found"),
    [
        ("z", "x", "y"),  # right-handed: about Superior, Right turns to Anterior
        ("x", "y", "z"),
        ("y", "z", "x"),
    ],
)
def test_anatomy_turns_right_handed_in_millimetres(axis: str, marked: str, found: str) -> None:
    spacing = {"z": 3.0, "y": 2.0, "x": 1.0}
    distance = 6.0  # mm, a whole number of voxels along every axis

    def voxel(name: str) -> tuple[int, ...]:
        return tuple(12 + int(distance / spacing[a]) * (a == name) for a in "zyx")

    volume = np.zeros((25, 25, 25))
    volume[voxel(marked)] = 1.0
    draw = SpatialDraw(rotation_deg=tuple(90.0 * (a == axis) for a in "zyx"))
    result = transformed(volume, draw, tuple(spacing.values()))
    assert np.unravel_index(result.argmax(), result.shape) == voxel(found)
    assert result[voxel(found)] == pytest.approx(1.0, abs=1e-5)


def test_scale_above_one_shows_more_of_the_volume() -> None:
    volume = np.zeros((33, 33, 33))
    volume[16, 16, 28] = 1.0
    result = transformed(volume, SpatialDraw(scale=(2.0, 2.0, 2.0)))
    assert result[16, 16, 22] == 1.0


def test_mirroring_is_a_flip_of_the_transformed_patch() -> None:
    volume = smooth_noise((24, 24, 24))
    plain = transformed(volume, SpatialDraw((9.0, 4.0, -7.0)))
    flips = (True, False, True)
    flipped = transformed(volume, SpatialDraw((9.0, 4.0, -7.0), mirror=flips))
    np.testing.assert_allclose(flipped, plain[::-1, :, ::-1], atol=1e-5)


@given(flips=FLIPS)
@settings(deadline=None)
def test_mirroring_twice_is_the_identity(flips: tuple[bool, bool, bool]) -> None:
    array = np.random.default_rng(1).normal(size=(2, 3, 4, 5))
    np.testing.assert_array_equal(mirror(mirror(array, flips), flips), array)
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis + 1)
    np.testing.assert_array_equal(mirror(mirror(array, flips), flips), array)


@given(angles=ANGLES, scale=SCALES, flips=FLIPS, spacing=SPACINGS, patch=SIDES)
@settings(deadline=None)
def test_window_is_as_small_as_interpolation_allows(
    angles: tuple[float, float, float],
    scale: tuple[float, float, float],
    flips: tuple[bool, bool, bool],
    spacing: tuple[float, float, float],
    patch: tuple[int, int, int],
) -> None:
    sampling = plan_sampling(SpatialDraw(angles, scale, flips), spacing, (5, -3, 0), patch)
    corners = np.stack(np.meshgrid(*[(0, side - 1) for side in patch]), -1).reshape(-1, 3)
    source = corners @ sampling.matrix.T + sampling.offset
    room = np.array(sampling.window_shape) - 2 - source.max(0)
    assert (source.min(0) >= 0).all() and (source.min(0) < 1.1).all()
    assert (room > -1).all() and (room < 0.1).all()


def test_only_rotation_and_scale_interpolate() -> None:
    assert not SpatialDraw(mirror=(True, True, True)).interpolates
    assert SpatialDraw(rotation_deg=(0.0, 1.0, 0.0)).interpolates
    assert SpatialDraw(scale=(1.0, 1.2, 1.2)).interpolates


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((5.0, 1.0, 1.0), 0), ((0.8, 3.3, 0.8), 1), ((3.0, 1.0, 1.0), None), ((1.5, 1.5, 1.5), None)],
)
def test_thick_axis_is_more_than_three_times_the_finest(
    spacing: tuple[float, float, float], axis: int | None
) -> None:
    assert thick_axis(spacing) == axis
