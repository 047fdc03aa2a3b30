"""A case of the store, opened by an unmodified zarr-python, equals what was put in."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import zarr

from stunet.io.manifest import DatasetInfo
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter, case_path
from stunet.types import CaseArrays, Channel, ChannelStatistics


@pytest.fixture(scope="module")
def real_case(shared_data: Path) -> CaseArrays:
    """A real CT, read without our own reader, and a scaled copy of it as a second channel."""
    folder = shared_data / "train_ct" / "totalseg"
    image = nibabel.load(folder / "example_ct.nii.gz")
    label = nibabel.load(folder / "example_ct_seg.nii.gz")
    hounsfield = np.asarray(image.dataobj).astype(np.int16).transpose(2, 1, 0)
    return CaseArrays(
        case_id="example_ct",
        image_czyx=np.stack([hounsfield, hounsfield // 3]),
        label_zyx=np.asarray(label.dataobj).astype(np.uint8).transpose(2, 1, 0),
        affine=np.asarray(image.affine, np.float64),
        scale=(1.0, 3.0),
        offset=(0.0, 0.5),
        statistics=(ChannelStatistics(0.0, 1.0, -1024.0, 3000.0),) * 2,
        split="train",
        source_sha256={"example_ct.nii.gz": "0" * 64},
    )


def info(codec: str) -> DatasetInfo:
    labels = {"background": 0, **{f"class_{value}": value for value in range(1, 118)}}
    channels = (Channel("CT", "ct"), Channel("CT3", "ct"))
    return DatasetInfo(
        "real", channels, (3.0, 3.0, 3.0), (32, 32, 32), ((1, 1, 1),), labels, None,
        "Apache-2.0", {}, {}, codec,
    )  # fmt: skip


@pytest.mark.parametrize("codec", ["local", "network"])
def test_zarr_reads_every_voxel_and_what_it_means(
    tmp_path: Path, real_case: CaseArrays, codec: str
) -> None:
    writer = StoreWriter(tmp_path, info(codec))
    writer.finish([writer.write_case(real_case)])
    folder = tmp_path / case_path("example_ct")
    group = zarr.open(str(folder), mode="r")
    assert sorted(name for name, _ in group.members()) == ["image", "label"]  # and no warning
    assert group["image"].dtype == np.int16
    assert group["label"].dtype == np.uint8
    np.testing.assert_array_equal(group["image"][...], real_case.image_czyx)
    np.testing.assert_array_equal(group["label"][...], real_case.label_zyx)
    assert group["image"].metadata.dimension_names == ("c", "z", "y", "x")
    attributes = dict(group.attrs)
    np.testing.assert_array_equal(attributes["affine"], real_case.affine)
    steps = np.sqrt((real_case.affine[:3, :3] ** 2).sum(axis=0))
    np.testing.assert_allclose(attributes["spacing_mm"], steps[::-1])
    assert attributes["scale"] == [1.0, 3.0]
    assert attributes["offset"] == [0.0, 0.5]
    assert attributes["labels"]["class_117"] == 117


def test_our_reader_equals_zarr_on_random_boxes(tmp_path: Path, real_case: CaseArrays) -> None:
    writer = StoreWriter(tmp_path, info("local"))
    writer.finish([writer.write_case(real_case)])
    store = open_store(tmp_path)
    group = zarr.open(str(tmp_path / store.rows[0].path), mode="r")
    generator = np.random.default_rng(0)
    whole = real_case.label_zyx.shape
    for _ in range(10):
        start = generator.integers(0, whole)
        shape = generator.integers(1, np.array(whole) - start, endpoint=True)
        box = tuple(map(slice, start, start + shape))
        np.testing.assert_array_equal(store.read_image(0, start, shape), group["image"][:, *box])
        np.testing.assert_array_equal(store.read_label(0, start, shape), group["label"][box])


def test_zarr_too_refuses_a_flipped_bit(tmp_path: Path, real_case: CaseArrays) -> None:
    StoreWriter(tmp_path, info("local")).write_case(real_case)
    folder = tmp_path / case_path("example_ct")
    shard = folder / "image" / "c" / "0" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open(str(folder), mode="r")["image"][...]
