"""NIfTI: header kept bit for bit on output, scaling as nibabel applies it, damage refused."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension
from numpy.testing import assert_allclose

from stunet.errors import VolumeError
from stunet.io.volume import read_image, read_label_table, write_label

GEOMETRY = (
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
SHAPE = (4, 5, 6)


def oblique() -> np.ndarray:
    turn = np.radians(17)
    affine = np.diag([0.7, 0.7, 3.3, 1.0])
    affine[:2, :2] = 0.7 * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    affine[:3, 0] *= -1  # LAS: x is flipped on the way in
    affine[:3, 3] = (-101.3, 7.77, -804.1)
    return affine


def image_with(kind: type = nib.Nifti1Image, endianness: str = "<", shape=SHAPE):
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(np.int16)
    data = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    image = kind(data, oblique(), header)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a patient's name"
    image.header.extensions.append(Nifti1Extension("comment", b"private"))
    return image


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("endianness", "<>")
@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (4, 2), (2, 1)])
@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 1), (*SHAPE, 1, 1), (*SHAPE, 3)])
def test_geometry_fields_are_kept_bit_for_bit(
    tmp_path: Path, kind: type, endianness: str, sform: int, qform: int, shape: tuple[int, ...]
) -> None:
    image = image_with(kind, endianness, shape)
    image.set_sform(oblique(), sform)
    image.set_qform(oblique(), qform)
    nib.save(image, tmp_path / "a.nii.gz")
    source = nib.load(tmp_path / "a.nii.gz")

    volume = read_image(tmp_path / "a.nii.gz")
    label = np.arange(np.prod(volume.shape_zyx), dtype=np.uint8).reshape(volume.shape_zyx)
    write_label(tmp_path / "l.nii.gz", label, volume, {"liver": 5})
    written = nib.load(tmp_path / "l.nii.gz")

    assert type(written) is type(source)
    assert written.header.endianness == endianness
    assert written.shape == (SHAPE if shape[-1] == 3 else shape)
    assert np.array_equal(written.affine, source.affine)
    assert np.array_equal(volume.source.affine, source.affine)
    for field in GEOMETRY:
        kept = slice(None) if field != "pixdim" else slice(0, 4)
        before, after = np.atleast_1d(source.header[field]), np.atleast_1d(written.header[field])
        assert before[kept].tobytes() == after[kept].tobytes(), field
    assert np.array_equal(np.squeeze(written.dataobj), label[..., ::-1].T)
    assert written.header["descrip"] == b""
    assert [extension.get_content() for extension in written.header.extensions] == [
        b'{"labels": {"liver": 5}}'
    ]


@pytest.mark.parametrize(
    ("slope", "intercept"), [(2.0, 0.0), (1.0, -1024.0), (0.37, 12.5), (-1.0, 3.0)]
)
def test_scaling_equals_nibabel(tmp_path: Path, slope: float, intercept: float) -> None:
    image = image_with()
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, tmp_path / "a.nii")
    array = read_image(tmp_path / "a.nii").array
    assert array.dtype == np.float32
    assert_allclose(array[0, ..., ::-1].T, nib.load(tmp_path / "a.nii").get_fdata(), rtol=1e-7)


@pytest.mark.parametrize("slope", [0.0, 1.0, np.nan])
def test_no_scaling_keeps_integers(tmp_path: Path, slope: float) -> None:
    nib.save(image_with(), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[112:120] = np.array([slope, 0], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(data)
    assert read_image(tmp_path / "a.nii").array.dtype == np.int16


def test_a_gzip_stream_is_known_by_content_not_by_name(tmp_path: Path) -> None:
    nib.save(image_with(), tmp_path / "a.nii")
    plain = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    (tmp_path / "zipped.nii").write_bytes(gzip.compress(plain))
    expected = read_image(tmp_path / "a.nii").array
    assert np.array_equal(read_image(tmp_path / "plain.nii.gz").array, expected)
    assert np.array_equal(read_image(tmp_path / "zipped.nii").array, expected)


def test_every_byte_of_a_gzip_file_is_guarded(tmp_path: Path) -> None:
    """One flipped bit anywhere behind the 10-byte gzip header, or a lost tail, never passes."""
    nib.save(image_with(), tmp_path / "a.nii")
    zipped = gzip.compress((tmp_path / "a.nii").read_bytes(), mtime=0)
    path = tmp_path / "b.nii.gz"
    for position in range(10, len(zipped)):
        flipped = bytearray(zipped)
        flipped[position] ^= 0x10
        path.write_bytes(flipped)
        with pytest.raises(VolumeError, match=r"damaged|truncated"):
            read_image(path)
    for length in range(10, len(zipped), 7):
        path.write_bytes(zipped[:length])
        with pytest.raises(VolumeError, match="truncated"):
            read_image(path)


def edited(path: Path, **fields: object) -> Path:
    image = image_with()
    nib.save(image, path)
    header = nib.load(path).header.copy()
    header["vox_offset"] = 352 + header.extensions.get_sizeondisk()  # nibabel forgets it
    for field, value in fields.items():
        header[field] = value
    data = path.read_bytes()
    path.write_bytes(header.binaryblock + data[348:])
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"xyzt_units": 3}, "spatial unit code 3 is not mm"),
        ({"sform_code": 0, "qform_code": 0}, "neither sform nor qform"),
        ({"pixdim": [1, 0, 1, 1, 1, 1, 1, 1]}, r"spacing \(0, 1, 1\) mm has a zero"),
        ({"pixdim": [1, 1, np.nan, 1, 1, 1, 1, 1]}, r"spacing \(1, nan, 1\) mm .* not finite"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "affine .* is not finite"),
        ({"srow_y": [0, 0, 0, np.inf]}, "affine .* is not finite"),
        ({"srow_x": 0, "srow_y": 0, "srow_z": 0}, r"spacing \(0, 0, 0\) mm has a zero"),
        ({"srow_x": [1, 1, 0, 0], "srow_y": [0, 1, 0, 0]}, "axes i and j meet at 45.00 degrees"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 5}, "qform is invalid"),
        ({"dim": [2, 4, 5, 1, 1, 1, 1, 1]}, r"shape \(4, 5\) is 2-D"),
        ({"dim": [5, 4, 5, 3, 1, 2, 1, 1]}, r"shape \(4, 5, 3, 1, 2\) is 5-D"),
        ({"dim": [3, 4, 0, 6, 1, 1, 1, 1]}, r"shape \(4, 0, 6\) has an empty axis"),
        ({"dim": [3, 400, 500, 600, 1, 1, 1, 1]}, "is truncated"),
        ({"datatype": 32, "bitpix": 64}, "voxel type complex64 is not a number"),
        ({"datatype": 999}, "voxel type 999 is unknown"),
        ({"vox_offset": 10}, "voxel offset 10 is in the header"),
        ({"scl_slope": 2, "scl_inter": np.inf}, "scaling is invalid"),
        ({"magic": b"ni1"}, "magic .* is not that of a single-file NIfTI"),
        ({"magic": b""}, "magic .* is not that of a single-file NIfTI"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    path = edited(tmp_path / "a.nii", **fields)
    with pytest.raises(VolumeError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_float64_beyond_float32_is_counted_as_infinite(tmp_path: Path) -> None:
    data = np.zeros(SHAPE)
    data[0, 0] = 1e300
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(VolumeError, match="0 NaN and 6 infinite voxels of 120"):
        read_image(tmp_path / "a.nii")


def test_a_damaged_header_is_a_volume_or_a_one_line_error(tmp_path: Path) -> None:
    nib.save(image_with(), tmp_path / "a.nii")
    good = (tmp_path / "a.nii").read_bytes()
    path = tmp_path / "b.nii"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(good)
        for position in rng.integers(0, 352, size=rng.integers(1, 12)):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        for read in (read_image, read_label_table):
            try:
                read(path)
            except VolumeError as error:
                refused += read is read_image
                assert "\n" not in str(error)
    assert 100 < refused < 400


def test_other_programs_extensions_are_no_label_table(tmp_path: Path) -> None:
    nib.save(image_with(), tmp_path / "a.nii.gz")
    assert read_label_table(tmp_path / "a.nii.gz") == {}
