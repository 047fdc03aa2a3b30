"""Measurements of real scans against nibabel and numpy."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_tools.fingerprint import fingerprint
from data_tools.ingest import ingest
from stunet.errors import DataError
from stunet.types import RawDataset


def hippocampi(shared_data: Path, count: int) -> RawDataset:
    raw = ingest(shared_data / "finetune" / "hippocampus_mr")
    return replace(raw, cases=raw.cases[:count])


def voxels(path: str | None) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)  # type: ignore[arg-type, attr-defined]


def test_cases_equal_nibabel_and_numpy(shared_data: Path) -> None:
    raw = hippocampi(shared_data, 4)
    found = fingerprint(raw)
    assert found.channel_names == ("image",)
    for case, measured in zip(raw.cases, found.cases, strict=True):
        image, label = voxels(case.images[0]), voxels(case.label)
        inside = image[label > 0].astype(np.float64)
        (foreground,) = measured.foreground
        assert measured.case_id == case.case_id
        assert measured.shape_zyx == image.shape[::-1]
        assert measured.spacing_mm == pytest.approx((1.0, 1.0, 1.0))
        assert measured.labels == tuple(np.unique(label))
        assert measured.lowest == (image.min(),)
        assert foreground.mean == pytest.approx(inside.mean())
        assert foreground.std == pytest.approx(inside.std())
        expected = np.percentile(inside, (0.5, 99.5))
        assert (foreground.p0_5, foreground.p99_5) == pytest.approx(expected)
        assert (foreground.min, foreground.max) == (inside.min(), inside.max())


def test_pooled_intensities_weigh_cases_alike_and_leave_held_out_cases_out(
    shared_data: Path,
) -> None:
    raw = hippocampi(shared_data, 4)
    splits = ("train", "val", "train", "test")
    cases = tuple(replace(case, split=split) for case, split in zip(raw.cases, splits, strict=True))
    (pooled,) = fingerprint(replace(raw, cases=cases)).foreground
    inside = [voxels(c.images[0])[voxels(c.label) > 0] for c in (raw.cases[0], raw.cases[2])]
    means = [values.mean(dtype=np.float64) for values in inside]
    assert pooled.mean == pytest.approx(np.mean(means), rel=2e-3)
    variance = np.mean([values.var(dtype=np.float64) for values in inside]) + np.var(means)
    assert pooled.std == pytest.approx(np.sqrt(variance), rel=5e-3)


def test_is_json_and_repeats_exactly(shared_data: Path) -> None:
    raw = hippocampi(shared_data, 2)
    once, twice = (json.dumps(asdict(fingerprint(raw)), allow_nan=False) for _ in range(2))
    assert once == twice


def test_ignored_voxels_are_no_foreground(shared_data: Path) -> None:
    raw = hippocampi(shared_data, 1)
    raw = replace(raw, labels={"background": 0, "anterior": 1}, ignore_label=2)
    inside = voxels(raw.cases[0].images[0])[voxels(raw.cases[0].label) == 1]
    (foreground,) = fingerprint(raw).cases[0].foreground
    assert foreground.mean == pytest.approx(inside.mean(dtype=np.float64))


def test_nothing_labelled(shared_data: Path, tmp_path: Path) -> None:
    raw = hippocampi(shared_data, 1)
    case = raw.cases[0]
    empty = tmp_path / "empty.nii.gz"
    like = nib.load(case.images[0])  # type: ignore[attr-defined]
    nib.save(nib.Nifti1Image(np.zeros(like.shape, np.uint8), like.affine), empty)  # type: ignore[attr-defined]
    unlabelled = replace(case, case_id="empty", label=str(empty))
    found = fingerprint(replace(raw, cases=(case, unlabelled)))
    assert [len(measured.foreground) for measured in found.cases] == [0, 1]
    with pytest.raises(DataError, match="no training case has a labelled voxel"):
        fingerprint(replace(raw, cases=(unlabelled,)))
