"""NRRD and MetaImage: round trips, and the damage that ITK itself would let pass."""

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the customary name
from numpy.testing import assert_allclose

from stunet.errors import VolumeError
from stunet.io.volume import read_image, read_label, read_label_table, write_label

ITK_SUFFIXES = [".nrrd", ".mha", ".mhd"]
TURN = np.radians(25)
OBLIQUE = (np.cos(TURN), -np.sin(TURN), 0.0, np.sin(TURN), np.cos(TURN), 0.0, 0.0, 0.0, 1.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def itk_image(direction: tuple[float, ...] = FLIPPED, components: int = 1) -> sitk.Image:
    rng = np.random.default_rng(0)
    shape = (6, 5, 4) if components == 1 else (6, 5, 4, components)
    data = rng.integers(-1000, 1000, shape).astype(np.int16)
    image = sitk.GetImageFromArray(data, isVector=components > 1)
    image.SetSpacing((0.7, 1.1, 3.3))
    image.SetOrigin((-12.5, 33.1, -804.7))
    image.SetDirection(direction)
    return image


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
@pytest.mark.parametrize("direction", [STRAIGHT, FLIPPED, OBLIQUE])
def test_voxels_lie_where_itk_says(
    tmp_path: Path, suffix: str, direction: tuple[float, ...]
) -> None:
    sitk.WriteImage(itk_image(direction), tmp_path / f"a{suffix}")
    written = sitk.ReadImage(tmp_path / f"a{suffix}")
    volume = read_image(tmp_path / f"a{suffix}")
    assert volume.array.dtype == np.int16
    rng = np.random.default_rng(1)
    for z, y, x in rng.integers(0, volume.shape_zyx, size=(20, 3)):
        point_ras = (volume.affine @ (x, y, z, 1))[:3]
        index = written.TransformPhysicalPointToIndex((point_ras * (-1, -1, 1)).tolist())
        assert written[index] == volume.array[0, z, y, x]


@pytest.mark.parametrize("source", ITK_SUFFIXES)
@pytest.mark.parametrize("target", [".nrrd", ".mha"])
@pytest.mark.parametrize("direction", [STRAIGHT, FLIPPED, OBLIQUE])
def test_label_round_trip(
    tmp_path: Path, source: str, target: str, direction: tuple[float, ...]
) -> None:
    sitk.WriteImage(itk_image(direction), tmp_path / f"a{source}", useCompression=True)
    volume = read_image(tmp_path / f"a{source}")
    label = np.arange(np.prod(volume.shape_zyx)).reshape(volume.shape_zyx) * 3
    write_label(tmp_path / f"l{target}", label, volume)
    again = read_label(tmp_path / f"l{target}", volume)
    assert np.array_equal(again.array[0], label)
    if target == ".mha" or direction != OBLIQUE:
        assert np.array_equal(again.source.affine, volume.source.affine)
    else:  # NRRD keeps products of direction and spacing: 1 ulp when they are taken apart
        assert_allclose(again.source.affine, volume.source.affine, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_label_as_nifti_lies_on_its_image(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(itk_image(OBLIQUE), tmp_path / f"a{suffix}")
    volume = read_image(tmp_path / f"a{suffix}")
    label = np.arange(np.prod(volume.shape_zyx)).reshape(volume.shape_zyx)
    write_label(tmp_path / "l.nii.gz", label, volume)
    again = read_label(tmp_path / "l.nii.gz", volume)
    assert np.array_equal(again.array[0], label)
    assert_allclose(again.affine, volume.affine, atol=1e-4)  # float32 in NIfTI
    image, written = sitk.ReadImage(tmp_path / f"a{suffix}"), sitk.ReadImage(tmp_path / "l.nii.gz")
    assert_allclose(written.GetOrigin(), image.GetOrigin(), atol=1e-4)
    assert_allclose(written.GetDirection(), image.GetDirection(), atol=1e-6)


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_vector_components_become_channels(tmp_path: Path, suffix: str) -> None:
    image = itk_image(STRAIGHT, components=3)
    sitk.WriteImage(image, tmp_path / f"a{suffix}")
    volume = read_image(tmp_path / f"a{suffix}")
    expected = np.moveaxis(sitk.GetArrayFromImage(image), -1, 0)[:, :, ::-1, ::-1]
    assert np.array_equal(volume.array, expected)


@pytest.mark.parametrize("space", ["left-posterior-superior", "RAS", "left-anterior-superior"])
def test_nrrd_spaces(tmp_path: Path, space: str) -> None:
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(itk_image(STRAIGHT), path)
    data = path.read_bytes().replace(b"left-posterior-superior", space.encode())
    path.write_bytes(data)
    signs = {"l": (-1, -1, 1), "R": (1, 1, 1)}[space[0]]
    if "anterior" in space:
        signs = (-1, 1, 1)
    affine = read_image(path).source.affine
    assert_allclose(np.diag(affine)[:3], np.multiply(signs, (0.7, 1.1, 3.3)))
    assert_allclose(affine[:3, 3], np.multiply(signs, (-12.5, 33.1, -804.7)))


def rewritten(path: Path, field: str, value: str) -> Path:
    """The image at `path` with one header field replaced, or removed where `value` is empty."""
    sitk.WriteImage(itk_image(STRAIGHT), path)
    separator = ": " if path.suffix == ".nrrd" else " = "
    line = f"{field}{separator}{value}\n" if value else ""
    data, count = re.subn(
        rf"(?m)^{field}{separator}.*\n".encode(), line.encode(), path.read_bytes()
    )
    assert count == 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("a.nrrd", "space directions", "(1,0,0) (0,1,0) (0,0.5,2)", "j and k meet at 75.96 deg"),
        ("a.nrrd", "space directions", "(1,0,0) (0,1,0) (0,0,0)", r"spacing \(1, 1, 0\) mm has a"),
        ("a.nrrd", "space directions", "(1,0,0) (0,1,0) (0,0,nan)", "is not finite"),
        ("a.nrrd", "space directions", "(1,0,0) (0,1,0) none", "not 9 numbers"),
        ("a.nrrd", "space directions", "(1,0,0) (0,1,0) (0,0,x)", "not 9 numbers"),
        ("a.nrrd", "space origin", "(1,inf,0)", "is not finite"),
        ("a.nrrd", "space", "scanner-xyz", "'scanner-xyz' does not say where left is"),
        ("a.nrrd", "space", "", "space None does not say where left is"),
        ("a.nrrd", "sizes", "4 5 60", "is truncated"),
        ("a.nrrd", "type", "potato", "cannot be decoded"),
        ("a.mha", "TransformMatrix", "1 0 0 0 1 0 0 0.3 1", "j and k meet at 73.30 degrees"),
        ("a.mha", "TransformMatrix", "1 0 0 0 1 0 0 nan 1", "is not finite"),
        ("a.mha", "TransformMatrix", "", "'TransformMatrix' is '', not 9 numbers"),
        ("a.mha", "ElementSpacing", "1 0 1", r"spacing \(1, 0, 1\) mm has a zero"),
        ("a.mha", "ElementSpacing", "1 1", "not 3 numbers"),
        ("a.mha", "Offset", "nan 0 0", "is not finite"),
        ("a.mha", "DimSize", "4 5 60", "is truncated"),
        ("a.mha", "ElementDataFile", "gone.raw", r"gone\.raw: cannot be read"),
        ("a.mha", "ElementDataFile", "LIST", "voxels in several files"),
    ],
)
def test_headers_that_are_refused(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    field: str,
    value: str,
    message: str,
) -> None:
    path = rewritten(tmp_path / name, field, value)
    with pytest.raises(VolumeError, match=message) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_every_byte_of_the_compressed_voxels_is_guarded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(), path, useCompression=True)
    data = path.read_bytes()
    start = data.index(b"\n\n") + 2 if suffix == ".nrrd" else data.index(b"LOCAL\n") + 6
    start += 10 if suffix == ".nrrd" else 0  # time stamp and system of the gzip header say nothing
    for position in range(start, len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        path.write_bytes(flipped)
        with pytest.raises(VolumeError, match=r"damaged|truncated"):
            read_image(path)
    path.write_bytes(data[:-20])
    with pytest.raises(VolumeError, match="truncated"):
        read_image(path)


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_what_is_no_image(tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    with pytest.raises(VolumeError, match=r"is empty \(0 bytes\)"):
        read_image(path)
    path.write_bytes(b"hello" * 100)
    with pytest.raises(VolumeError, match=r"is not an? (NRRD|MetaImage)"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_four_axes_are_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.int16), isVector=False)
    for name in ("a.nrrd", "a.mha"):
        sitk.WriteImage(image, tmp_path / name)
        with pytest.raises(VolumeError, match=r"three axes|space None"):
            read_image(tmp_path / name)


def test_foreign_metadata_is_no_label_table(tmp_path: Path) -> None:
    image = itk_image()
    image.SetMetaData("labels", "liver and spleen")
    sitk.WriteImage(image, tmp_path / "a.nrrd")
    assert read_label_table(tmp_path / "a.nrrd") == {}
