"""Read one raw case, image and label on one grid, and identify the files it came from.

For every application that starts from raw scans: preparation and transfer evaluation. Which cases a
folder holds is found by `data_tools.ingest`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from stunet.errors import DataError
from stunet.io.volume import Volume, combine_channels, read_image, read_label, read_label_folder
from stunet.types import RawCase, RawDataset


def read_case(case: RawCase, raw: RawDataset) -> tuple[Volume, Volume]:
    """Image (C, Z, Y, X) and label (1, Z, Y, X) of a case, both RAS+ and on the same grid.

    Raises:
        VolumeError: a file cannot be used, or the label lies on another grid.
        DataError: the case has no label or another number of channels than the data set.
    """
    if case.label is None:
        raise DataError(f"case {case.case_id}: has no label; give its label or leave it out")
    channels = [read_image(path) for path in case.images]
    image = channels[0] if len(channels) == 1 else combine_channels(channels)
    if len(image.array) != len(raw.channel_names):
        raise DataError(
            f"case {case.case_id}: has {len(image.array)} channels but the data set declares "
            f"{len(raw.channel_names)} ({', '.join(raw.channel_names)})"
        )
    if Path(case.label).is_dir():
        return image, read_label_folder(case.label, raw.labels, like=image)
    return image, read_label(case.label, like=image)


def source_hashes(case: RawCase) -> dict[str, str]:
    """The sha256 of every source of a case, by role: `image_0000`, ..., `label`.

    Roles instead of paths, so that a moved data set counts as unchanged.
    """
    sources = {f"image_{number:04d}": path for number, path in enumerate(case.images)}
    if case.label is not None:
        sources["label"] = case.label
    return {role: sha256_of(Path(path)) for role, path in sources.items()}


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
