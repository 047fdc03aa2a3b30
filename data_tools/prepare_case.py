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
from stunet.io.raw_case import read_case, source_hashes
from stunet.io.store_writer import StoreWriter
from stunet.io.voxels import label_dtype
from stunet.transforms.normalize import statistics
from stunet.transforms.resample import resample_image, resampled_affine, target_shape
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
    measured = measure_case(case, raw)
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
    split = case.split or "train"
    done = writer.finished(case.case_id, hashes)
    if done is not None:
        return replace(done, split=split, licence=raw.licence)
    image, label = read_case(case, raw)
    shape = target_shape(image.shape_zyx, image.spacing_mm, recipe.spacing_mm)
    image_czyx = resample_image(
        image.array.astype(np.float32), image.spacing_mm, recipe.spacing_mm, shape
    )
    whole = statistics(image_czyx)
    stored_czyx, scale, offset = quantise(image_czyx, recipe.channels, whole)
    return writer.write_case(
        CaseArrays(
            case_id=case.case_id,
            image_czyx=stored_czyx,
            label_zyx=resample_label(_one_dtype(label.array[0], raw), shape),
            affine=resampled_affine(image.affine, image.shape_zyx, shape),
            scale=scale,
            offset=offset,
            statistics=whole,
            split=split,
            source_sha256=hashes,
            licence=raw.licence,
        )
    )


def _one_dtype(label_zyx: np.ndarray, raw: RawDataset) -> np.ndarray:
    """The type that holds every label of the data set, so that all cases are stored alike."""
    largest = max((*raw.labels.values(), raw.ignore_label or 0))
    return label_zyx.astype(np.promote_types(label_zyx.dtype, label_dtype(largest)), copy=False)
