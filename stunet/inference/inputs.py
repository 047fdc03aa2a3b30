"""Which scans the paths of a command name: files, folders of files, DICOM series. Only names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stunet.errors import DataError
from stunet.io.volume import VOLUME_SUFFIXES, file_stem

CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's naming of a file per channel


@dataclass(frozen=True)
class Scan:
    """One scan to segment.

    Attributes:
        name: What its outputs are called.
        images: One file or DICOM folder, or a file per channel in the order of the channels.
    """

    name: str
    images: tuple[Path, ...]


def list_scans(paths: Sequence[Path], channels: int) -> tuple[Scan, ...]:
    """Return the scans that paths name, sorted by name.

    A folder with volume files stands for each of them; one with other files is a DICOM series; one
    with neither stands for the series in the folders below it. `NAME_0000`, `NAME_0001`, ... are
    the channels of scan NAME, up to the number that the network takes.

    Args:
        paths: Files and folders.
        channels: Of the network.

    Raises:
        DataError: A folder holds nothing, or two scans have one name.
    """
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for image in dict.fromkeys(image for path in paths for image in _images(path)):
        stem = file_stem(image)
        match = None if image.is_dir() else CHANNEL.fullmatch(stem)
        name = match[1] if match is not None and int(match[2]) < channels else stem
        groups[image.parent, name].append(image)
    scans = [Scan(name, tuple(sorted(images))) for (_, name), images in groups.items()]
    _check_names(scans)
    return tuple(sorted(scans, key=lambda scan: scan.name))


def _images(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file()]
    volumes = [file for file in files if file.name.lower().endswith(VOLUME_SUFFIXES)]
    if volumes:
        return volumes
    if files:
        return [path]
    below = [image for entry in entries for image in _images(entry)]
    if not below:
        raise DataError(f"{path}: holds no scan; give files, a folder of files or a DICOM series")
    return below


def _check_names(scans: Sequence[Scan]) -> None:
    first: dict[str, Scan] = {}
    for scan in scans:
        other = first.setdefault(scan.name, scan)
        if other is not scan:
            raise DataError(
                f"{scan.images[0]} and {other.images[0]}: both would be written as {scan.name!r}; "
                "predict them into two folders"
            )
