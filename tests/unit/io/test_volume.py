"""Reading and writing through the public face: world coordinates, value types, labels, refusals."""

import itertools
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the customary name
from nibabel.affines import apply_affine
from numpy.testing import assert_allclose

from stunet.errors import VolumeError
from stunet.io.volume import (
    Volume,
    combine_channels,
    read_image,
    read_label,
    read_label_folder,
    read_label_table,
    write_label,
)

SIGNED_PERMUTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SHAPE_IJK = (6, 7, 9)


def oblique_affine(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """Stored axis a runs near world axis order[a]; the whole grid is turned by 12 degrees."""
    axes = np.zeros((3, 3))
    for axis, (world, sign, side) in enumerate(zip(order, signs, (1.5, 2.0, 4.0), strict=True)):
        axes[world, axis] = sign * side
    turn = np.radians(12)
    tilt = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = tilt @ axes
    affine[:3, 3] = (-31.0, 17.5, 203.25)
    return affine


def save_nifti(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    image = nib.Nifti1Image(data, np.diag([2.0, 2, 3, 1]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def world_points(mask_ijk: np.ndarray, affine: np.ndarray) -> np.ndarray:
    points = apply_affine(affine, np.argwhere(mask_ijk))
    return points[np.lexsort(points.round(3).T)]


@pytest.fixture
def image(tmp_path: Path) -> Volume:
    rng = np.random.default_rng(0)
    data = rng.integers(-1000, 2000, SHAPE_IJK, dtype=np.int16)
    return read_image(save_nifti(tmp_path / "image.nii.gz", data, np.diag([-2.0, -2, 3, 1])))


@pytest.mark.parametrize(("order", "signs"), SIGNED_PERMUTATIONS)
def test_a_cube_keeps_its_place_in_the_world(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    cube_ijk = np.zeros(SHAPE_IJK, np.int16)
    cube_ijk[1:3, 2:5, 4:8] = 7
    path = save_nifti(tmp_path / "cube.nii.gz", cube_ijk, oblique_affine(order, signs))
    stored = nib.load(path)

    volume = read_image(path)
    directions = volume.affine[:3, :3]
    assert np.array_equal(np.abs(directions).argmax(axis=0), [0, 1, 2])
    assert (np.diag(directions) > 0).all()
    oriented = world_points(volume.array[0].T == 7, volume.affine)
    assert_allclose(oriented, world_points(cube_ijk == 7, stored.affine), atol=1e-4)

    write_label(tmp_path / "label.nii.gz", (volume.array[0] == 7).astype(np.int64), volume)
    written = nib.load(tmp_path / "label.nii.gz")
    assert np.array_equal(written.affine, stored.affine)
    assert np.array_equal(np.asanyarray(written.dataobj), cube_ijk == 7)

    write_label(tmp_path / "label.nrrd", (volume.array[0] == 7).astype(np.uint8), volume)
    itk = sitk.ReadImage(tmp_path / "label.nrrd")
    inside_ijk = np.argwhere(sitk.GetArrayFromImage(itk).T)
    points_lps = [itk.TransformIndexToPhysicalPoint(index.tolist()) for index in inside_ijk]
    points = np.array(points_lps) * (-1, -1, 1)
    assert_allclose(points[np.lexsort(points.round(3).T)], oriented, atol=1e-4)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("u1", "int16"),
        ("i1", "int16"),
        ("i2", "int16"),
        (">i2", "int16"),
        ("u2", "int32"),
        ("i4", "int32"),
        ("u4", "int32"),
        ("i8", "int32"),
        ("f4", "float32"),
        ("f8", "float32"),
    ],
)
def test_value_types(tmp_path: Path, stored: str, read: str) -> None:
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(stored)
    image = nib.Nifti1Image(data, np.eye(4), dtype=data.dtype)
    nib.save(image, tmp_path / "a.nii")
    array = read_image(tmp_path / "a.nii").array
    assert array.dtype == read
    assert array.dtype.isnative
    assert array.flags.writeable
    assert array.flags.c_contiguous
    assert np.array_equal(array[0].T, data)


def test_integers_beyond_int32_become_float(tmp_path: Path) -> None:
    data = np.array([[[0, 2**40]]], np.int64)
    nib.save(nib.Nifti1Image(data, np.eye(4), dtype=np.int64), tmp_path / "a.nii")
    array = read_image(tmp_path / "a.nii").array
    assert array.dtype == np.float32
    assert array.max() == 2**40


def test_fourth_axis_becomes_channels(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    volume = read_image(save_nifti(tmp_path / "a.nii.gz", data))
    assert volume.array.shape == (2, 5, 4, 3)
    assert np.array_equal(volume.array[1].T, data[..., 1])
    assert volume.source.shape == (3, 4, 5)
    write_label(tmp_path / "l.nii.gz", np.zeros((5, 4, 3), np.uint8), volume)
    assert nib.load(tmp_path / "l.nii.gz").shape == (3, 4, 5)


def test_volume_survives_pickling(image: Volume, tmp_path: Path) -> None:
    clone = pickle.loads(pickle.dumps(image))
    write_label(tmp_path / "a.nii.gz", np.ones(image.shape_zyx, np.uint8), image)
    write_label(tmp_path / "b.nii.gz", np.ones(image.shape_zyx, np.uint8), clone)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_geometry_properties(image: Volume) -> None:
    assert image.shape_zyx == (9, 7, 6)
    assert image.spacing_mm == (3.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.full((2, 2, 2), 1.5, np.float32), "8 label voxels are not integers, e.g. 1.5"),
        (np.full((2, 2, 2), np.nan, np.float32), "8 label voxels are not integers, e.g. nan"),
        (np.full((2, 2, 2), -3, np.int16), "label value -3 is outside 0..65535"),
        (np.full((2, 2, 2), 65536, np.int32), "label value 65536 is outside 0..65535"),
        (np.zeros((2, 2, 2, 3), np.uint8), "holds 3 channels"),
    ],
)
def test_label_refusals(tmp_path: Path, data: np.ndarray, message: str) -> None:
    path = save_nifti(tmp_path / "label.nii.gz", data)
    with pytest.raises(VolumeError, match=message) as caught:
        read_label(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("largest", "dtype"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16)]
)
def test_labels_take_the_smallest_type(
    tmp_path: Path, image: Volume, largest: int, dtype: type
) -> None:
    label = np.zeros(image.shape_zyx, np.int64)
    label[0, 0, 0] = largest
    write_label(tmp_path / "label.nii.gz", label, image)
    assert nib.load(tmp_path / "label.nii.gz").get_data_dtype() == dtype
    read = read_label(tmp_path / "label.nii.gz", image)
    assert read.array.dtype == dtype
    assert np.array_equal(read.array[0], label)


def test_float_label_of_exact_integers(tmp_path: Path) -> None:
    data = np.arange(8, dtype=np.float64).reshape(2, 2, 2)
    label = read_label(save_nifti(tmp_path / "label.nii.gz", data))
    assert label.array.dtype == np.uint8
    assert np.array_equal(label.array[0].T, data)


def test_label_in_another_orientation_lands_on_its_image(tmp_path: Path, image: Volume) -> None:
    label_zyx = np.zeros(image.shape_zyx, np.uint8)
    label_zyx[1:4, 2:3, 3:6] = 5
    ras = np.eye(4)
    ras[:3] = image.affine[:3]
    path = save_nifti(tmp_path / "ras.nii.gz", label_zyx.T, ras)
    assert np.array_equal(read_label(path, image).array[0], label_zyx)


@pytest.mark.parametrize("shift_mm", [0.1, 0.3])
def test_label_shift_is_measured(tmp_path: Path, image: Volume, shift_mm: float) -> None:
    moved = image.source.affine.copy()
    moved[1, 3] += shift_mm  # a tenth of the smallest side is 0.2 mm
    path = save_nifti(tmp_path / "label.nii.gz", np.zeros(SHAPE_IJK, np.uint8), moved)
    if shift_mm < 0.2:
        read_label(path, image)
    else:
        with pytest.raises(VolumeError, match=r"lies up to 0\.3 mm away from .*image\.nii\.gz"):
            read_label(path, image)


def test_label_spacing_error_shows_at_the_far_corner(tmp_path: Path, image: Volume) -> None:
    stretched = image.source.affine.copy()
    stretched[2, 2] *= 1.01  # 8 steps of 0.03 mm
    path = save_nifti(tmp_path / "label.nii.gz", np.zeros(SHAPE_IJK, np.uint8), stretched)
    with pytest.raises(VolumeError, match=r"lies up to 0\.24 mm away"):
        read_label(path, image)


def test_label_of_another_shape(tmp_path: Path, image: Volume) -> None:
    path = save_nifti(tmp_path / "label.nii.gz", np.zeros((6, 7, 8), np.uint8), image.source.affine)
    with pytest.raises(VolumeError, match=r"shape \(8, 7, 6\) .* \(9, 7, 6\)"):
        read_label(path, image)


def test_masks_of_a_folder_merge_and_the_higher_value_wins(tmp_path: Path, image: Volume) -> None:
    affine = image.source.affine
    liver, spleen = (np.zeros(SHAPE_IJK, np.uint8) for _ in range(2))
    liver[:4] = 1
    spleen[3:] = 1
    save_nifti(tmp_path / "liver.nii.gz", liver, affine)
    save_nifti(tmp_path / "spleen.nii.gz", spleen, affine)
    labels = {"background": 0, "spleen": 300, "liver": 2}
    merged = read_label_folder(tmp_path, labels, image)
    assert merged.array.dtype == np.uint16
    expected_ijk = np.where(spleen == 1, 300, np.where(liver == 1, 2, 0))
    assert np.array_equal(merged.array[0], expected_ijk[::-1, ::-1].T)


def test_mask_folder_refusals(tmp_path: Path, image: Volume) -> None:
    with pytest.raises(VolumeError, match=r"liver\.nii\.gz: cannot be read \(no such file"):
        read_label_folder(tmp_path, {"liver": 1}, image)
    two = np.zeros(SHAPE_IJK, np.uint8)
    two[0], two[1] = 1, 2
    save_nifti(tmp_path / "liver.nii.gz", two, image.source.affine)
    with pytest.raises(VolumeError, match="is not a binary mask: largest value 2"):
        read_label_folder(tmp_path, {"liver": 1}, image)


def test_channels_of_one_case(tmp_path: Path, image: Volume) -> None:
    affine = image.source.affine
    pet = read_image(
        save_nifti(tmp_path / "pet.nii.gz", np.full(SHAPE_IJK, 0.5, np.float32), affine)
    )
    wide = read_image(save_nifti(tmp_path / "w.nii.gz", np.ones(SHAPE_IJK, np.uint16), affine))
    both = combine_channels([image, pet])
    assert both.array.dtype == np.float32
    assert np.array_equal(both.array[0], image.array[0])
    assert (both.array[1] == 0.5).all()
    assert both.source is image.source
    assert combine_channels([image, wide]).array.dtype == np.int32
    moved = save_nifti(tmp_path / "moved.nii.gz", np.ones(SHAPE_IJK, np.int16), np.eye(4))
    with pytest.raises(VolumeError, match=r"moved\.nii\.gz: lies up to"):
        combine_channels([image, read_image(moved)])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_label_names_travel_with_the_file(tmp_path: Path, image: Volume, suffix: str) -> None:
    labels = {f"structure_{value}": value for value in range(1, 118)}
    path = tmp_path / f"label{suffix}"
    label = np.full(image.shape_zyx, 117, np.uint8)
    write_label(path, label, image, labels)
    assert read_label_table(path) == labels
    assert np.array_equal(read_label(path, image).array[0], label)
    write_label(path, label, image)
    assert read_label_table(path) == {}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_writing_is_atomic_and_repeatable(tmp_path: Path, image: Volume, suffix: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / f"label{suffix}"
    label = np.arange(np.prod(image.shape_zyx)).reshape(image.shape_zyx) % 5
    write_label(path, label, image)
    first = path.read_bytes()
    write_label(path, label, image)
    assert path.read_bytes() == first
    assert list(folder.iterdir()) == [path]


def test_writing_refusals(tmp_path: Path, image: Volume) -> None:
    good = np.zeros(image.shape_zyx, np.uint8)
    with pytest.raises(VolumeError, match=r"label shape \(6, 7, 9\) is not \(9, 7, 6\)"):
        write_label(tmp_path / "label.nii.gz", good.T, image)
    with pytest.raises(VolumeError, match="label value -1 is outside"):
        write_label(tmp_path / "label.nii.gz", good.astype(np.int8) - 1, image)
    with pytest.raises(VolumeError, match=r"cannot write this type; use \.nii\.gz"):
        write_label(tmp_path / "label.mhd", good, image)
    with pytest.raises(VolumeError, match=r"a label table of 60.* bytes does not fit"):
        write_label(tmp_path / "label.mha", good, image, {"x" * 60_000: 1})
    assert not list(tmp_path.glob("label*"))


def test_unusable_paths(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"absent\.nii\.gz: cannot be read \(no such file"):
        read_image(tmp_path / "absent.nii.gz")
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(VolumeError, match=r"photo\.png: unknown type '\.png'; give \.nii\.gz"):
        read_image(tmp_path / "photo.png")
