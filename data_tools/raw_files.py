"""File names and small JSON files of raw data folders; what every layout needs.

Nothing here opens an image: that is `stunet.io.volume`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stunet.errors import DataError
from stunet.io.volume import VOLUME_SUFFIXES, file_stem
from stunet.types import RawCase

UNNAMED_CHANNEL = "image"  # what it holds is told from its values (`plan.py`)
CHANNEL_SUFFIX = re.compile(r"(?P<stem>.+)_(?P<channel>\d{4})")
CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def volumes_in(folder: Path) -> list[tuple[str, Path]]:
    """The volumes of a folder, sorted by name: (name without ending, path).

    A subfolder counts as a DICOM series. Hidden files and files of other kinds are passed over.

    Raises:
        DataError: the folder does not exist or holds no volume.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; check the path")
    found = []
    for path in sorted(folder.iterdir()):
        known = path.is_dir() or path.name.lower().endswith(VOLUME_SUFFIXES)
        if known and not path.name.startswith("."):
            found.append((file_stem(path), path))
    if not found:
        raise DataError(
            f"{folder}: holds no volume; expected files ending in {', '.join(VOLUME_SUFFIXES)}"
        )
    return found


def split_channel(stem: str) -> tuple[str, int | None]:
    """Case id and channel number of a file name.

    >>> split_channel("liver_12_0001")
    ('liver_12', 1)
    >>> split_channel("liver_12")
    ('liver_12', None)
    """
    match = CHANNEL_SUFFIX.fullmatch(stem)
    return (match["stem"], int(match["channel"])) if match else (stem, None)


def in_channel_order(case_id: str, numbered: dict[int, Path], channels: int) -> tuple[str, ...]:
    """The image files of one case, channel 0 first.

    Raises:
        DataError: they are not exactly channels 0 to `channels` - 1.
    """
    if sorted(numbered) != list(range(channels)):
        raise DataError(
            f"case {case_id}: found image channels {sorted(numbered)}, expected 0 to "
            f"{channels - 1}; add or remove files"
        )
    return tuple(str(numbered[channel]) for channel in range(channels))


def check_cases(cases: Iterable[RawCase], folder: Path) -> tuple[RawCase, ...]:
    """The cases sorted by id.

    Raises:
        DataError: there is none, an id occurs twice, or an id cannot be a file name everywhere.
    """
    ordered = tuple(sorted(cases, key=lambda case: case.case_id))
    if not ordered:
        raise DataError(f"{folder}: holds no case; check the path")
    for case_id, count in Counter(case.case_id for case in ordered).items():
        if count > 1:
            raise DataError(f"{folder}: case id {case_id} occurs {count} times; rename the files")
        if not CASE_ID.fullmatch(case_id):
            raise DataError(
                f"{folder}: case id {case_id!r} may hold letters, digits, '_', '-' and '.' only; "
                "rename its files"
            )
    return ordered


def read_json_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that holds one object.

    Raises:
        DataError: it is missing, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); correct the file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected one JSON object")
    return content


def check_labels(labels: dict[str, int], place: Path) -> dict[str, int]:
    """Label names to values by value, `background` included.

    Raises:
        DataError: a value is negative or not an integer, two names share one, or none is left.
    """
    for name, value in labels.items():
        if type(value) is not int or value < 0:
            raise DataError(f"{place}: label {name!r} has value {value!r}; use an integer >= 0")
    for value, count in Counter(labels.values()).items():
        if count > 1:
            names = [name for name in labels if labels[name] == value]
            raise DataError(f"{place}: labels {names} share value {value}; give each its own")
    if 0 not in labels.values():
        labels = {"background": 0, **labels}
    return dict(sorted(labels.items(), key=lambda item: item[1]))
