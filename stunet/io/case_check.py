"""Refuse arrays that would make a damaged or meaningless case, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from stunet.errors import DataError
from stunet.io.manifest import DatasetInfo
from stunet.types import CaseArrays

CASE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # no leading dot: those are temporary


def check_arrays(case: CaseArrays, info: DatasetInfo) -> None:
    """Check that the parts of a case fit each other and the data set.

    Raises:
        DataError: Naming the case, the value that does not fit and what is expected.
    """
    image, label, channels = case.image_czyx, case.label_zyx, len(info.channels)
    numbers = [*case.affine.flat, *case.scale, *case.offset]
    for entry in case.statistics:
        numbers += [entry.mean, entry.std, entry.min, entry.max]
    per_channel = (len(case.scale), len(case.offset), len(case.statistics))
    expectations = (
        (CASE_ID.fullmatch(case.case_id), "its id may hold letters, digits, '_', '-' and '.' only"),
        (image.dtype == np.int16, f"the image is {image.dtype}, not int16"),
        (label.dtype in (np.uint8, np.uint16), f"the label is {label.dtype}, not uint8 or uint16"),
        (image.ndim == 4, f"the image has shape {image.shape}, not (C, Z, Y, X)"),
        (image.shape[1:] == label.shape, f"image {image.shape} and label {label.shape} differ"),
        (label.size > 0, f"the volume {label.shape} has no voxels"),
        (image.shape[0] == channels, f"{image.shape[0]} channels, the data set has {channels}"),
        (set(per_channel) == {channels}, f"scale, offset, statistics of {per_channel} channels"),
        (case.affine.shape == (4, 4), f"the affine has shape {case.affine.shape}, not (4, 4)"),
        (np.isfinite(numbers).all(), "affine, scale, offset or statistics are not finite"),
        (0 not in case.scale, "a scale of 0 would lose the image"),
    )
    for holds, problem in expectations:
        if not holds:
            raise DataError(f"case {case.case_id!r}: {problem}; correct what prepares this case")


def check_labels(case_id: str, voxel_counts: Mapping[int, int], info: DatasetInfo) -> None:
    """Check that every label value belongs to the data set's label space.

    Raises:
        DataError: Naming each foreign value and its number of voxels.
    """
    foreign = [
        f"{value} ({count} voxels)"
        for value, count in voxel_counts.items()
        if value not in info.label_space
    ]
    if foreign:
        raise DataError(
            f"case {case_id}: label values {', '.join(foreign)} are not in the label space;"
            " name them in the data set's labels or correct the label file"
        )
