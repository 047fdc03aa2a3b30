"""Bring the channels of every case onto the grid of its first one, by their world coordinates.

For scans that are registered but stored on grids of their own, as PET beside CT. Nothing is
registered here: a channel that covers too little of the first is an error. The result is an
nnU-Net raw folder, from which the label and the first channel come out as they went in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy.ndimage import map_coordinates

from stunet.errors import DataError
from stunet.io.atomic import atomic_write_bytes, atomic_write_text
from stunet.io.spill import planes_of
from stunet.io.volume import Volume, read_image
from stunet.types import RawCase, RawDataset

LEAST_COVERAGE = 0.5  # of the first channel's volume; below it files are hardly of one scan
DATASET = "dataset.json"

OnProgress = Callable[[int, int, str], None]


def align(
    raw: RawDataset, out: Path, on_progress: OnProgress = lambda done, total, case_id: None
) -> Path:
    """Write a data set whose channels share one grid; finished files are kept.

    Args:
        raw: From `ingest`; several files per case.
        out: Folder of the new data set.
        on_progress: Called after each case as (cases done, cases in total, case id).

    Returns:
        `out`.

    Raises:
        DataError: A case has no label, or a channel lies elsewhere than the first.
        VolumeError: A file cannot be read.
    """
    listed: dict[str, Any] = {}
    for number, case in enumerate(raw.cases, start=1):
        listed[case.case_id] = _align_case(case, raw, out)
        on_progress(number, len(raw.cases), case.case_id)
    atomic_write_text(out / DATASET, json.dumps(_declaration(raw, listed), indent=1) + "\n")
    return out


def resample_onto(moving: Volume, like: Volume) -> tuple[np.ndarray, float]:
    """Look up a volume at the voxel centres of another, linearly, by world coordinates.

    Args:
        moving: Any orientation, rotation and spacing.
        like: Gives the grid; it should be the finer one, since nothing is smoothed.

    Returns:
        float32 (C, Z, Y, X) on the grid of `like`, the lowest value of the channel outside of
        `moving`; and the share of voxels that are inside.
    """
    to_moving = np.linalg.inv(moving.affine) @ like.affine  # index x, y, z to index x, y, z
    linear, shift = to_moving[:3, :3][::-1, ::-1], to_moving[:3, 3][::-1]  # z, y, x from here on
    shape = like.shape_zyx
    found = np.empty((len(moving.array), *shape), np.float32)
    edges = np.array(moving.shape_zyx).reshape(3, 1, 1, 1)
    inside_voxels = 0
    for planes in planes_of(shape[0], shape[1] * shape[2]):
        places = np.indices((planes.stop - planes.start, *shape[1:]), np.float64)
        places[0] += planes.start
        at = np.tensordot(linear, places, axes=1) + shift.reshape(3, 1, 1, 1)
        inside = ((at >= -0.5) & (at <= edges - 0.5)).all(axis=0)
        inside_voxels += int(inside.sum())
        for target, source in zip(found, moving.array, strict=True):
            values = map_coordinates(source, at, np.float32, order=1, mode="nearest")
            target[planes] = np.where(inside, values, source.min())
    return found, inside_voxels / found[0].size


def _align_case(case: RawCase, raw: RawDataset, out: Path) -> dict[str, Any]:
    """Write what is not there yet; return the entry of the case in `dataset.json`."""
    if case.label is None or Path(case.label).is_dir():
        raise DataError(f"case {case.case_id}: has no label file; give one or leave it out")
    if case.label_map is not None or case.annotated is not None:
        raise DataError(
            f"case {case.case_id}: its label is not numbered as the data set or lacks structures,"
            " which nnU-Net's layout cannot say; align each data set on its own"
        )
    first, *others = case.images
    images = [_copied(first, out / "imagesTr", f"{case.case_id}_0000")]
    label = _copied(case.label, out / "labelsTr", case.case_id)
    like = None
    for number, path in enumerate(others, start=1):
        target = out / "imagesTr" / f"{case.case_id}_{number:04d}.nii.gz"
        images.append(target)
        if target.exists():
            continue
        like = read_image(first) if like is None else like
        array, covered = resample_onto(read_image(path), like)
        if covered < LEAST_COVERAGE:
            raise DataError(
                f"case {case.case_id}: {path} covers {covered:.0%} of {first} in world"
                f" coordinates, {LEAST_COVERAGE:.0%} are needed; check that both are of one scan"
                " and registered"
            )
        _write(target, array, like.affine)
    return {
        "images": [str(path.relative_to(out)) for path in images],
        "label": str(label.relative_to(out)),
    }


def _copied(source: str, folder: Path, stem: str) -> Path:
    """A file or DICOM folder under a new name with its own ending."""
    path = Path(source)
    folder.mkdir(parents=True, exist_ok=True)
    ending = "" if path.is_dir() else path.name[path.name.find(".") :]
    target = folder / f"{stem}{ending}"
    if target.exists():
        return target
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        atomic_write_bytes(target, path.read_bytes())
    return target


def _write(target: Path, array_czyx: np.ndarray, affine: np.ndarray) -> None:
    """A NIfTI file; channels, where there are several, on its fourth axis."""
    kji = np.moveaxis(array_czyx, 0, -1).transpose(2, 1, 0, 3)
    image = nibabel.Nifti1Image(kji[..., 0] if kji.shape[-1] == 1 else kji, affine)
    partial = target.with_name(f".partial.{target.name}")
    nibabel.save(image, partial)
    partial.replace(target)


def _declaration(raw: RawDataset, listed: dict[str, Any]) -> dict[str, Any]:
    """`dataset.json` of nnU-Net raw v2."""
    regions = {name: list(values) for name, values in raw.regions.items()}
    labels: dict[str, Any] = {"background": 0, **regions} if regions else dict(raw.labels)
    if raw.ignore_label is not None:
        labels["ignore"] = raw.ignore_label
    return {
        "name": raw.name,
        "channel_names": {str(number): name for number, name in enumerate(raw.channel_names)},
        "labels": labels,
        "regions_class_order": list(raw.regions_class_order),
        "file_ending": ".nii.gz",
        "licence": raw.licence,
        "numTraining": len(listed),
        "dataset": listed,
    }
