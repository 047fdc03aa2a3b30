"""Real files that break readers: each gives the right volume or one line that says what to do."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the customary name

from stunet.errors import VolumeError
from stunet.io.orientation import axis_codes
from stunet.io.volume import read_image, read_label, read_label_table, write_label


@dataclass(frozen=True)
class Good:
    """What a readable image must give: shape, type, spacing z y x, stored axes, value range."""

    shape: tuple[int, int, int, int]
    dtype: str
    spacing_mm: tuple[float, float, float]
    axes: str
    values: tuple[float, float]


IMAGES: dict[str, Good | str] = {
    "5D_small.nii": r"shape \(1, 2, 3, 1, 3\) is 5-D",
    "amos_0001_label_only_LAS_uint16_768.nii.gz": Good(
        (1, 90, 768, 768), "int32", (5, 0.5703, 0.5703), "LAS", (0, 15)
    ),
    "big_endian_float.nii.gz": Good(
        (1, 21, 64, 64), "float32", (6, 4, 4), "LAS", (-8.710751, 18.58253)
    ),
    "brain1_LAS_6.5mm_image.nrrd": Good(
        (1, 25, 256, 256), "int16", (6.5, 0.78125, 0.78125), "LAS", (0, 3057)
    ),
    "brain1_LAS_6.5mm_label.nrrd": Good(
        (1, 25, 256, 256), "int32", (6.5, 0.78125, 0.78125), "LAS", (0, 1)
    ),
    "derived_1slice_ct.nii.gz": Good((1, 1, 101, 122), "int16", (3, 3, 3), "RAS", (-1024, 1189)),
    "derived_3x3x3_ct.nii.gz": Good((1, 3, 3, 3), "int16", (3, 3, 3), "RAS", (-1024, -1022)),
    "derived_bitflip_gz.nii.gz": r"compressed data are damaged \(CRC check failed",
    "derived_constant_air.nii.gz": Good(
        (1, 30, 101, 122), "int16", (3, 3, 3), "RAS", (-1024, -1024)
    ),
    "derived_empty.nii.gz": r"is empty \(0 bytes\)",
    "derived_label_affine_mismatch.nii.gz": Good(
        (1, 30, 101, 122), "int16", (3, 3, 3), "RAS", (0, 117)
    ),
    "derived_label_shape_mismatch.nii.gz": Good(
        (1, 30, 101, 121), "int16", (3, 3, 3), "RAS", (0, 117)
    ),
    "derived_oblique20_ct.nii.gz": Good(
        (1, 30, 101, 122), "int16", (3, 3, 3), "RAS", (-1100, 1207)
    ),
    "derived_permuted_IRA_ct.nii.gz": Good(
        (1, 30, 101, 122), "int16", (3, 3, 3), "IRA", (-1100, 1207)
    ),
    "derived_truncated_gz.nii.gz": "is truncated after 241656 bytes",
    "derived_uint16_offset_ct.nii.gz": Good(
        (1, 30, 101, 122), "int32", (3, 3, 3), "RAS", (0, 2307)
    ),
    "ext_LPI_trailing_dim.nii.gz": Good((1, 151, 191, 161), "int16", (1, 1, 1), "LPI", (0, 1)),
    "fetal_mr_aniso_qform_only.nii.gz": Good(
        (1, 20, 120, 140), "float32", (4, 0.78125, 0.78125), "LPS", (12, 1361)
    ),
    "ge_tilt_sheared_ct.nii.gz": "sheared affine: axes j and k meet at 108.50 degrees",
    "nibabel_bigendian_float.nii": Good(
        (1, 22, 26, 21), "float32", (4, 4, 4), "RAS", (0, 21199.936)
    ),
    "nibabel_bigendian_float_nan.nii": "153 NaN and 0 infinite voxels of 1071",
    "nibabel_bigendian_int16.nii": Good((1, 25, 41, 33), "int16", (2, 2, 2), "LAS", (-610, 30393)),
    "nibabel_example4d_oblique.nii.gz": Good(
        (2, 24, 96, 128), "int16", (2.2, 2, 2), "LAS", (0, 1162)
    ),
    "nibabel_nifti2_4d.nii.gz": Good((2, 12, 20, 32), "int16", (2.2, 2, 2), "LAS", (46, 757)),
    "nibabel_tiny_4x5x7.nii.gz": Good((1, 7, 5, 4), "int16", (2, 3, 1), "RAS", (0, 255)),
    "not-nifti.nii": "is not a NIfTI image",
    "sct_dmri_4d_oblique_17mm.nii.gz": Good(
        (7, 5, 42, 40), "int16", (17.5, 0.8413, 0.8413), "LAS", (0, 1348)
    ),
    "sct_fmri_tsnr_nan.nii.gz": "408 NaN and 0 infinite voxels of 27744",
    "sct_label_float64.nii.gz": Good((1, 55, 60, 52), "float32", (1, 1, 1), "PSR", (0, 5)),
    "sct_mtr_neginf.nii.gz": "0 NaN and 633 infinite voxels of 8000",
    "sct_t2s_seg_int64.nii.gz": Good((1, 9, 54, 49), "int32", (7.5, 0.5, 0.5), "LAS", (0, 1)),
    "sct_venc_1slice_4d.nii.gz": Good(
        (3, 1, 256, 256), "int16", (6, 0.625, 0.625), "LAS", (-4096, 4094)
    ),
    "sct_warp_5d_vector.nii.gz": r"shape \(60, 55, 52, 1, 3\) is 5-D",
    "single_slice_uint16_PIR_oblique.nii.gz": Good(
        (1, 192, 192, 1), "int32", (1.1458, 1.1458, 1), "PIR", (0, 836)
    ),
}

LABELS: dict[str, str | int] = {  # the largest label value, or the refusal
    "amos_0001_label_only_LAS_uint16_768.nii.gz": 15,
    "brain1_LAS_6.5mm_label.nrrd": 1,
    "ext_LPI_trailing_dim.nii.gz": 1,
    "sct_label_float64.nii.gz": 5,
    "sct_t2s_seg_int64.nii.gz": 1,
    "derived_constant_air.nii.gz": "label value -1024 is outside 0..65535",
    "big_endian_float.nii.gz": "18159 label voxels are not integers",
    "nibabel_nifti2_4d.nii.gz": "holds 2 channels",
}


def check_one_line(error: VolumeError, path: Path) -> None:
    text = str(error)
    assert text.startswith(f"{path}: ")
    assert "; " in text, "the next action is missing"
    assert "\n" not in text


def test_every_file_has_its_expectation(shared_data: Path) -> None:
    assert {path.name for path in (shared_data / "robust").iterdir()} == set(IMAGES)


@pytest.mark.parametrize("name", IMAGES)
def test_image(shared_data: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    path = shared_data / "robust" / name
    expected = IMAGES[name]
    if isinstance(expected, str):
        with pytest.raises(VolumeError, match=expected) as caught:
            read_image(path)
        check_one_line(caught.value, path)
    else:
        volume = read_image(path)
        assert volume.array.shape == expected.shape
        assert volume.array.dtype == expected.dtype
        assert volume.spacing_mm == pytest.approx(expected.spacing_mm, abs=1e-4)
        assert axis_codes(volume.source.affine) == expected.axes
        assert axis_codes(volume.affine) == "RAS"
        values = volume.array.min(), volume.array.max()
        assert values == pytest.approx(expected.values, rel=1e-6)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", LABELS)
def test_label(shared_data: Path, name: str) -> None:
    path = shared_data / "robust" / name
    expected = LABELS[name]
    if isinstance(expected, str):
        with pytest.raises(VolumeError, match=expected) as caught:
            read_label(path)
        check_one_line(caught.value, path)
    else:
        label = read_label(path)
        assert label.array.dtype == np.uint8
        assert label.array.max() == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("affine", r"lies up to 30 mm away from .*derived_constant_air\.nii\.gz \(at most 0.3 mm"),
        ("shape", r"shape \(30, 101, 121\) .* \(30, 101, 122\)"),
    ],
)
def test_label_of_another_grid(shared_data: Path, name: str, message: str) -> None:
    image = read_image(shared_data / "robust" / "derived_constant_air.nii.gz")
    path = shared_data / "robust" / f"derived_label_{name}_mismatch.nii.gz"
    with pytest.raises(VolumeError, match=message) as caught:
        read_label(path, image)
    check_one_line(caught.value, path)


def test_permuted_axes_hold_the_same_anatomy(shared_data: Path) -> None:
    """The IRA file is the same scan as the oblique one, before its affine was turned."""
    permuted = read_image(shared_data / "robust" / "derived_permuted_IRA_ct.nii.gz")
    turned = read_image(shared_data / "robust" / "derived_oblique20_ct.nii.gz")
    assert np.array_equal(permuted.array, turned.array)
    step_x, step_y = turned.affine[:3, 0] / 3, turned.affine[:3, 1] / 3
    assert step_x @ step_y == pytest.approx(0, abs=1e-6)
    assert np.degrees(np.arccos(step_x[0])) == pytest.approx(20, abs=1e-3)


READABLE_NIFTI = [
    name for name, expected in IMAGES.items() if isinstance(expected, Good) and ".nii" in name
]


@pytest.mark.parametrize("name", [name for name in READABLE_NIFTI if "768" not in name])
def test_written_label_has_the_geometry_of_its_image(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    source = nib.load(shared_data / "robust" / name)
    volume = read_image(shared_data / "robust" / name)
    label = (volume.array[0] > np.median(volume.array[0])).astype(np.uint8)
    write_label(tmp_path / "label.nii.gz", label, volume)
    written = nib.load(tmp_path / "label.nii.gz")

    assert type(written) is type(source)
    assert np.array_equal(written.affine, source.affine)
    for field in ("sform_code", "qform_code", "xyzt_units"):
        assert written.header[field] == source.header[field]
    data = np.asanyarray(source.dataobj)
    first = data[..., 0] if volume.array.shape[0] > 1 else data
    assert written.shape == first.shape
    assert np.array_equal(np.asanyarray(written.dataobj), first > np.median(first))


def sct_pairs(root: Path) -> list[tuple[Path, Path]]:
    pairs = (
        ("mt/mt1", "mt/mt1_seg"),
        ("t1/t1w", "t1/t1w_seg-manual"),
        ("t2/t2", "t2/t2_seg-manual"),
        ("t2s/t2s", "t2s/t2s_seg"),
        ("t2s/t2s_uncropped", "t2s/t2s_uncropped_gmseg_manual"),
    )
    folder = root / "finetune" / "sct_spinalcord_mr"
    return [(folder / f"{image}.nii.gz", folder / f"{label}.nii.gz") for image, label in pairs]


def test_labels_lie_on_their_images(shared_data: Path) -> None:
    openkbp = shared_data / "train_ct" / "openkbp"
    sarcoma = shared_data / "finetune" / "sts_ct_mr_pet"
    pairs = sct_pairs(shared_data)
    pairs += [(path, openkbp / "labels" / path.name) for path in (openkbp / "images").iterdir()]
    pairs += [
        (path, path.with_name(path.name.replace("image", "mask")))
        for path in sarcoma.glob("*/*_image.nii.gz")
    ]
    assert len(pairs) == 5 + 24 + 18
    for image_path, label_path in pairs:
        image = read_image(image_path)
        label = read_label(label_path, image)
        assert label.shape_zyx == image.shape_zyx
        assert label.array.any()


def test_left_and_right_parotid(shared_data: Path) -> None:
    """In RAS+ the right parotid (3) has the greater x, whatever the file's axes (LPS)."""
    for path in sorted((shared_data / "train_ct" / "openkbp" / "labels").iterdir())[:4]:
        label = read_label(path).array[0]
        right_x, left_x = (np.nonzero(label == value)[2].mean() for value in (3, 4))
        assert right_x > left_x


def test_dicom_series_overlaps_its_nifti_label(shared_data: Path) -> None:
    """The label is stored LAS, the series LPS; bones are dense and fat is not where it overlaps."""
    folder = shared_data / "train_ct" / "totalseg"
    image = read_image(folder / "example_ct_dicom")
    label = read_label(folder / "example_ct_dicom_seg.nii.gz", image)
    hu, classes = image.array[0], label.array[0]
    assert (axis_codes(image.source.affine), axis_codes(label.source.affine)) == ("LPS", "LAS")
    names = read_label_table(folder / "example_ct_dicom_seg.nii.gz")
    bones = [names[name] for name in names if name.startswith(("vertebrae", "rib", "humerus"))]
    bone, liver = np.isin(classes, bones), classes == names["liver"]
    assert bone.sum() > 50_000
    assert hu[bone].mean() > 250
    assert hu[bone[:, ::-1]].mean() < -400  # front to back it would not fit
    assert 60 < hu[liver].mean() < 130
    assert hu[liver].std() < 40 < hu[liver[..., ::-1]].std()  # nor left to right


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_nrrd_label_round_trip(shared_data: Path, tmp_path: Path, suffix: str) -> None:
    robust = shared_data / "robust"
    image = read_image(robust / "brain1_LAS_6.5mm_image.nrrd")
    label = read_label(robust / "brain1_LAS_6.5mm_label.nrrd", image)
    write_label(tmp_path / f"label{suffix}", label.array[0], image)
    again = read_label(tmp_path / f"label{suffix}", image)
    assert np.array_equal(again.array, label.array)
    if suffix != ".nii.gz":
        assert np.array_equal(again.source.affine, image.source.affine)
    original = sitk.ReadImage(robust / "brain1_LAS_6.5mm_label.nrrd")
    written = sitk.ReadImage(tmp_path / f"label{suffix}")
    assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(original))
    assert written.GetOrigin() == pytest.approx(original.GetOrigin(), abs=1e-5)
