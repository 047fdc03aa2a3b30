"""File names and small JSON files of raw data folders; what every layout needs.

Nothing here opens an image: that is `stunet.io.volume`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from stunet.errors import DataError
from stunet.io.volume import VOLUME_SUFFIXES, file_stem
from stunet.types import RawCase

UNNAMED_CHANNEL = "image"  # what it holds is told from its values (`plan.py`)
CHANNEL_SUFFIX = re.compile(r"(?P<stem>.+)_(?P<channel>\d{4})")
CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def is_volume(path: Path, names: Collection[str]) -> bool:
    """Whether a path is a volume file with one of these names before its ending."""
    known = path.is_file() and path.name.lower().endswith(VOLUME_SUFFIXES)
    return known and file_stem(path) in names


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


def numbered_names(declared: Any, key: str, place: Path) -> tuple[str, ...]:
    """The channel names of a `dataset.json`, which numbers them `"0"`, `"1"`, ...

    Raises:
        DataError: the numbers have a gap, or a name is no text.
    """
    keys = list(declared) if isinstance(declared, dict) else []
    if not keys or sorted(keys) != sorted(map(str, range(len(keys)))):
        raise DataError(f"{place}: {key} has keys {keys}; number them '0', '1', ...")
    names = tuple(declared[number] for number in map(str, range(len(keys))))
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"{place}: {key} names a channel {name!r}; give text")
    return names


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
            raise DataError(f"{folder}: case id {case_id} occurs {count} times; rename one")
        if not CASE_ID.fullmatch(case_id):
            raise DataError(
                f"{folder}: case id {case_id!r} may hold letters, digits, '_', '-' and '.' only; "
                "rename its files"
            )
    return ordered


def read_json_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that holds one object.

    Raises:
        DataError: it is missing, not JSON, not an object, or a key occurs twice in an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); correct the file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected one JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file; Python would keep the last of two equal keys in silence."""
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"key {key!r} occurs {count} times in one object")
    return dict(pairs)


def path_inside(root: Path, declared: Any, place: Path) -> Path:
    """A path that a file of the data set declares, relative to its folder.

    A link inside the folder may point anywhere: whoever made it knows where.

    Raises:
        DataError: it is no text, absolute, or leads out of the folder.
    """
    if not isinstance(declared, str) or not declared:
        raise DataError(f"{place}: {declared!r} is no path; give a path relative to {root}")
    parts = PurePosixPath(declared)
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError(
            f"{place}: path {declared!r} leads out of {root}; move or link the file into the folder"
        )
    return root / parts
