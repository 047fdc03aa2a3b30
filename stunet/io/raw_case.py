"""Read one raw case, image and label on one grid, and identify the files it came from.

For every application that starts from raw scans: preparation and transfer evaluation. Which cases a
folder holds is found by `data_tools.ingest`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from stunet.errors import DataError
from stunet.io.foreground import count_voxels
from stunet.io.spill import Allocate, walk
from stunet.io.volume import Volume, combine_channels, read_image, read_label, read_label_folder
from stunet.io.voxels import label_dtype
from stunet.types import RawCase, RawDataset


def read_case(
    case: RawCase, raw: RawDataset, allocate: Allocate = np.empty
) -> tuple[Volume, Volume]:
    """Image (C, Z, Y, X) and label (1, Z, Y, X) of a case, both RAS+ and on the same grid.

    Args:
        case: What to read.
        raw: Its data set.
        allocate: Makes the arrays; a `Spill` keeps large ones out of memory.

    Raises:
        VolumeError: a file cannot be used, or the label lies on another grid.
        DataError: the case has no label or another number of channels than the data set, or its
            label has values that are not in the label space.
    """
    if case.label is None:
        raise DataError(f"case {case.case_id}: has no label; give its label or leave it out")
    channels = [read_image(path, allocate) for path in case.images]
    image = channels[0] if len(channels) == 1 else combine_channels(channels, allocate)
    if len(image.array) != len(raw.channel_names):
        raise DataError(
            f"case {case.case_id}: has {len(image.array)} channels but the data set declares "
            f"{len(raw.channel_names)} ({', '.join(raw.channel_names)})"
        )
    if Path(case.label).is_dir():
        label = read_label_folder(case.label, _mask_values(case, raw), image, allocate)
    else:
        label = read_label(case.label, image, allocate)
    return image, replace(label, array=in_label_space(label.array, case, raw, allocate))


def in_label_space(
    label_czyx: np.ndarray, case: RawCase, raw: RawDataset, allocate: Allocate = np.empty
) -> np.ndarray:
    """Label values of a case as those of its data set.

    Args:
        label_czyx: Values as the case's label source has them.
        case: Whose `label_map` is applied.
        raw: The data set. If it names the background only, every value is accepted.
        allocate: Makes the result where values change.

    Raises:
        DataError: a value that has no name, or is of a structure that is not annotated in the case.
    """
    if case.label_map is None and set(raw.labels.values()) == {0}:
        return label_czyx
    value_of = _value_of(case, raw)
    _check_values(count_voxels(label_czyx), value_of, case, raw)
    if case.label_map is None:
        return label_czyx
    table = np.zeros(max(value_of) + 1, label_dtype(max(value_of.values())))
    table[list(value_of)] = list(value_of.values())
    renumbered = allocate(label_czyx.shape, table.dtype)
    for target, source in zip(renumbered, label_czyx, strict=True):
        for new, old in walk(target, source):
            new[...] = table[old]
    return renumbered


def _value_of(case: RawCase, raw: RawDataset) -> dict[int, int]:
    """Value in the case's label source to value in the data set."""
    if case.label_map is not None:
        return {0: 0, **dict(case.label_map.values())}
    ignored = () if raw.ignore_label is None else (raw.ignore_label,)
    return {value: value for value in (*raw.labels.values(), *ignored)}


def _check_values(
    voxel_counts: Mapping[int, int], value_of: Mapping[int, int], case: RawCase, raw: RawDataset
) -> None:
    annotated = annotated_values(case, raw)
    name_of = {value: name for name, value in raw.labels.items()}
    for value, voxels in voxel_counts.items():
        if value not in value_of:
            raise DataError(
                f"case {case.case_id}: label value {value} ({voxels} voxels) in {case.label} is not"
                " in the label space; name it in the data set's labels or correct the file"
            )
        name = name_of.get(value_of[value])  # None: ignored
        if annotated is not None and name and value_of[value] not in (0, *annotated):
            raise DataError(
                f"case {case.case_id}: {name} has {voxels} voxels in {case.label} but is said not"
                " to be annotated there; correct the list of annotated structures"
            )


def annotated_values(case: RawCase, raw: RawDataset) -> tuple[int, ...] | None:
    """Label values of the structures that are annotated in a case, ascending; None: all."""
    if case.annotated is None:
        return None
    return tuple(sorted(raw.labels[name] for name in case.annotated))


def _mask_values(case: RawCase, raw: RawDataset) -> dict[str, int]:
    """Which masks to merge, and the value of each where they overlap."""
    if case.label_map is not None:
        return {name: own for name, (own, _) in case.label_map.items()}
    annotated = raw.labels if case.annotated is None else case.annotated
    return {name: raw.labels[name] for name in annotated}


def source_hashes(case: RawCase) -> dict[str, str]:
    """The sha256 of every source of a case, by role: `image_0000`, ..., `label`.

    How the label is understood is a source too, where the case says so: `label_map`. Roles instead
    of paths, so that a moved data set counts as unchanged.
    """
    sources = {f"image_{number:04d}": path for number, path in enumerate(case.images)}
    if case.label is not None:
        sources["label"] = case.label
    hashes = {role: sha256_of(Path(path)) for role, path in sources.items()}
    if case.label_map is not None or case.annotated is not None:
        understood = json.dumps([case.label_map, case.annotated]).encode()
        hashes["label_map"] = hashlib.sha256(understood).hexdigest()
    return hashes


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, or of names and contents of all files below a folder.

    Raises:
        DataError: a file is absent or cannot be read.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        listing = hashlib.sha256()
        for file_path in sorted(entry for entry in path.rglob("*") if entry.is_file()):
            name = file_path.relative_to(path).as_posix()
            listing.update(f"{sha256_of(file_path)}  {name}\n".encode())
        return listing.hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from error
