"""Reading by planes, whatever the orientation and the limits, gives what reading at once gives."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from stunet.errors import VolumeError
from stunet.io import nifti, spill
from stunet.io.spill import Spill
from stunet.io.volume import combine_channels, read_image, read_label, read_label_folder

SHAPE = (11, 13, 17)
ORIENTATIONS = [
    (axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in ((1, 1, 1), (-1, 1, -1), (-1, -1, -1))
]


@pytest.fixture
def few_planes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Spill:
    """Limits so low that every step takes several rounds; arrays that are spilled."""
    monkeypatch.setattr(spill, "IN_MEMORY_BYTES", 100)
    monkeypatch.setattr(spill, "SLAB_VOXELS", 500)
    monkeypatch.setattr(spill, "COPIED_VOXELS", 60)
    monkeypatch.setattr(nifti, "SLAB_BYTES", 1100)
    return Spill(tmp_path / "scratch")


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1.5, 2.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)
    return path


def turned(axes: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, axes] * np.array(flips) * (1.0, 1.5, 2.0)
    return affine


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_every_orientation(
    tmp_path: Path, few_planes: Spill, axes: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    data = np.random.default_rng(0).integers(-999, 999, (*SHAPE, 2)).astype(np.int16)
    path = save(tmp_path / "a.nii.gz", data, turned(axes, flips))
    volume = read_image(path, few_planes)
    assert isinstance(volume.array, np.memmap)
    expected = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(volume.array, np.asarray(expected.dataobj).T)
    np.testing.assert_allclose(volume.affine, expected.affine)


def test_channels_masks_and_labels(tmp_path: Path, few_planes: Spill) -> None:
    rng = np.random.default_rng(1)
    paths = [
        save(tmp_path / f"{number}.nii.gz", rng.normal(9, 99, SHAPE).astype(dtype))
        for number, dtype in enumerate((np.int16, np.float32, np.uint16))
    ]
    images = [read_image(path, few_planes) for path in paths]
    stacked = combine_channels(images, few_planes)
    assert stacked.array.dtype == np.float32
    np.testing.assert_array_equal(stacked.array, combine_channels(images).array)

    masks = {"liver": 3, "spleen": 1, "empty": 2}
    expected = np.zeros(SHAPE, np.uint8)
    for name, value in sorted(masks.items(), key=lambda item: item[1]):
        mask = rng.random(SHAPE) < (0.0 if name == "empty" else 0.4)
        expected[mask] = value
        # Masks may be stored in other orientations than the image.
        flipped = np.diag([-1.0, 1.5, -2.0, 1.0])
        flipped[:3, 3] = (SHAPE[0] - 1, 0, 2 * (SHAPE[2] - 1))
        stored = mask[::-1, :, ::-1].astype(np.uint8)
        save(tmp_path / "masks" / f"{name}.nii.gz", stored, flipped)
    merged = read_label_folder(tmp_path / "masks", masks, images[0], few_planes)
    assert isinstance(merged.array, np.memmap)
    np.testing.assert_array_equal(merged.array[0], expected.T)
    label = read_label(save(tmp_path / "label.nii.gz", expected), images[0], few_planes)
    np.testing.assert_array_equal(label.array, merged.array)


@pytest.mark.parametrize(
    ("early", "late", "stored", "image", "label"),
    [
        (7, 300, np.int32, np.int32, np.uint16),
        (300, 7, np.int32, np.int32, np.uint16),
        (7, 255, np.int64, np.int32, np.uint8),
        (7, 2**40, np.int64, np.float32, None),
        (2**40, 7, np.int64, np.float32, None),
    ],
)
def test_the_type_grows_with_the_values(
    tmp_path: Path, few_planes: Spill, early: int, late: int, stored: type, image: type, label: type
) -> None:
    data = np.zeros(SHAPE, stored)
    data[0, 0, 0], data[-1, -1, -1] = early, late
    path = save(tmp_path / "a.nii.gz", data)
    found = read_image(path, few_planes)
    assert found.array.dtype == image
    np.testing.assert_array_equal(found.array[0], data.T)
    if label is not None:
        labels = read_label(path, allocate=few_planes)
        assert labels.array.dtype == label
        np.testing.assert_array_equal(labels.array[0], data.T)


def test_a_message_names_the_planes(tmp_path: Path, few_planes: Spill) -> None:
    data = np.zeros((*SHAPE, 2), np.float32)
    data[3, 4, 16, 1] = np.nan
    path = save(tmp_path / "a.nii.gz", data)
    with pytest.raises(VolumeError, match="channel 1: planes 16 to 16: 1 NaN and 0 infinite"):
        read_image(path, few_planes)
    data = np.zeros(SHAPE, np.int16)
    data[0, 0, 16] = -1
    path = save(tmp_path / "b.nii.gz", data)
    with pytest.raises(VolumeError, match="planes 15 to 16: label value -1 is outside"):
        read_label(path, allocate=few_planes)
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0, 2], mask[0, 0, 14] = 1, 2
    save(tmp_path / "masks" / "liver.nii.gz", mask)
    like = read_image(save(tmp_path / "c.nii.gz", data))
    with pytest.raises(VolumeError, match="not a binary mask: largest value 2"):
        read_label_folder(tmp_path / "masks", {"liver": 1}, like, few_planes)


def test_damage_explains_strange_values(tmp_path: Path) -> None:
    data = np.zeros(SHAPE, np.float32)
    data[0, 0, 0] = np.nan
    path = save(tmp_path / "a.nii", data)
    zipped = bytearray(gzip.compress(path.read_bytes()))
    (tmp_path / "b.nii.gz").write_bytes(zipped)
    with pytest.raises(VolumeError, match="1 NaN"):
        read_image(tmp_path / "b.nii.gz")
    zipped[-5] ^= 1  # of the checksum, behind the voxels
    (tmp_path / "b.nii.gz").write_bytes(zipped)
    with pytest.raises(VolumeError, match="compressed data are damaged"):
        read_image(tmp_path / "b.nii.gz")


def test_a_gzip_file_of_several_members(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    plain = save(tmp_path / "a.nii", data).read_bytes()
    members = (plain[:700], plain[700:3000], plain[3000:])
    (tmp_path / "b.nii.gz").write_bytes(b"".join(map(gzip.compress, members)))
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii.gz").array[0], data.T)


def test_a_header_may_not_reserve_memory_that_the_file_cannot_fill(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros(SHAPE, np.int16))
    data = bytearray(path.read_bytes())
    data[40:48] = np.array([3, 32767, 32767, 32767], "<i2").tobytes()
    for name, content in (("b.nii", bytes(data)), ("c.nii.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VolumeError, match="is truncated after"):
            read_image(tmp_path / name)
