"""What a worker does for one case: measure it, then bring it to the target spacing and store it.

Both steps recall what an earlier, interrupted preparation finished, if the sources are unchanged.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.fingerprint import CaseFingerprint, CaseMeasurement, Intensities, measure_case
from data_tools.quantise import quantise
from stunet.io.atomic import atomic_write_text
from stunet.io.manifest import CaseRow
from stunet.io.raw_case import annotated_values, read_case, source_hashes
from stunet.io.spill import Allocate, Spill, copy_into
from stunet.io.store_writer import StoreWriter
from stunet.io.voxels import label_dtype
from stunet.transforms.normalize import statistics
from stunet.transforms.resample import (
    resample_image,
    resampled_affine,
    slice_axis,
    target_shape,
)
from stunet.transforms.resample_label import resample_label
from stunet.types import CaseArrays, Preprocessing, RawCase, RawDataset


def measure_once(case: RawCase, raw: RawDataset, folder: Path) -> CaseMeasurement:
    """Measure a case, or recall its measurement from `folder` if nothing changed since."""
    record = folder / f"{case.case_id}.json"
    made_from = {
        "sources": source_hashes(case),
        "channels": list(raw.channel_names),
        "labels": raw.labels,
        "ignore_label": raw.ignore_label,
    }
    recalled = _recall(record, made_from)
    if recalled is not None:
        return recalled
    measured = measure_case(case, raw, Spill(folder))
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(record, json.dumps({"made_from": made_from, **asdict(measured)}) + "\n")
    return measured


def _recall(record: Path, made_from: dict[str, Any]) -> CaseMeasurement | None:
    try:
        content = json.loads(record.read_bytes())
        if content["made_from"] != made_from:
            return None
        case = content["case"]
        foreground = tuple(Intensities(**entry) for entry in case["foreground"])
        values = {
            name: tuple(case[name]) for name in ("shape_zyx", "spacing_mm", "labels", "lowest")
        }
        return CaseMeasurement(
            CaseFingerprint(case["case_id"], foreground=foreground, **values),
            tuple(tuple(samples) for samples in content["samples"]),
        )
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None  # none yet, or written by another version: measure again


def prepare_case(
    case: RawCase, raw: RawDataset, recipe: Preprocessing, writer: StoreWriter
) -> CaseRow:
    """Resample and quantise one case and write it to the store, unless it is there already.

    Raises:
        VolumeError, DataError: the case cannot be used; the message says why.
    """
    hashes = source_hashes(case)
    split, licence = case.split or "train", case.licence or raw.licence
    annotated = annotated_values(case, raw)
    done = writer.finished(case.case_id, hashes)
    if done is not None:
        return replace(done, split=split, licence=licence, annotated=annotated)
    allocate = Spill(writer.root)
    image, label = read_case(case, raw, allocate)
    shape = target_shape(image.shape_zyx, image.spacing_mm, recipe.spacing_mm)
    affine = resampled_affine(image.affine, image.shape_zyx, shape)
    label_zyx = _in_one_type(label.array[0], raw, allocate)
    image_czyx = image.array
    if shape != image.shape_zyx:
        image_czyx = resample_image(
            image_czyx, image.spacing_mm, recipe.spacing_mm, shape, allocate
        )
        nearest_axis = slice_axis(image.spacing_mm, recipe.spacing_mm)
        label_zyx = resample_label(label_zyx, shape, nearest_axis, allocate)
    del image, label  # large
    whole = statistics(image_czyx)
    stored_czyx, scale, offset = quantise(image_czyx, recipe.channels, whole, allocate)
    del image_czyx
    return writer.write_case(
        CaseArrays(
            case_id=case.case_id,
            image_czyx=stored_czyx,
            label_zyx=label_zyx,
            affine=affine,
            scale=scale,
            offset=offset,
            statistics=whole,
            split=split,
            source_sha256=hashes,
            licence=licence,
            annotated=annotated,
        )
    )


def _in_one_type(label_zyx: np.ndarray, raw: RawDataset, allocate: Allocate) -> np.ndarray:
    """The type that holds every label of the data set, so that all cases are stored alike."""
    largest = max((*raw.labels.values(), raw.ignore_label or 0))
    dtype = np.promote_types(label_zyx.dtype, label_dtype(largest))
    if dtype == label_zyx.dtype:
        return label_zyx
    converted = allocate(label_zyx.shape, dtype)
    copy_into(converted, label_zyx)
    return converted
