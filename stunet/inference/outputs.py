"""What is written for a scan, in which order, and whether it is already there.

    NAME.nii.gz              all structures, names in the header; or, one file per structure:
    NAME/STRUCTURE.nii.gz
    NAME.statistics.json     volume, intensity, border per structure; what the labels were made by
    NAME.dcm, NAME.png       if wanted: DICOM segmentation, preview

Every file appears whole or not at all, the labels last: where they are, the rest is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stunet.errors import DataError
from stunet.inference.structures import describe_structures
from stunet.io.atomic import atomic_write_json, publish_folder, temporary_sibling
from stunet.io.volume import Volume, write_label


@dataclass(frozen=True)
class Result:
    """A segmented scan.

    Attributes:
        image: The scan.
        channels: Names of its channels.
        label_zyx: Label values on its grid.
        labels: Structure name to value, of the structures that are kept.
        made_by: All that decides the labels, as JSON.
    """

    image: Volume
    channels: Sequence[str]
    label_zyx: np.ndarray
    labels: Mapping[str, int]
    made_by: Mapping[str, Any]


@dataclass(frozen=True)
class Outputs:
    """What is written per scan, into one folder.

    Attributes:
        folder: Where.
        per_structure: A file for each structure in place of one for all.
        dicom_seg: Write a DICOM segmentation too.
        preview: Draw a picture too.
    """

    folder: Path
    per_structure: bool = False
    dicom_seg: bool = False
    preview: bool = False

    def finished(self, name: str, made_by: Mapping[str, Any]) -> bool:
        """Whether everything that is wanted of a scan is there already.

        Raises:
            DataError: Labels are there, but not by this bundle, these options and this scan.
        """
        labels, statistics, *others = self._paths(name)
        if not labels.exists():
            return False
        record = json.loads(statistics.read_text()) if statistics.is_file() else {}
        if record.get("made_by") != made_by:
            raise DataError(
                f"{labels}: is there, but not made from this scan by this bundle with these "
                "options; add --overwrite or choose another folder"
            )
        return all(path.exists() for path in others)

    def write(self, name: str, result: Result) -> None:
        """Write all of it, replacing what is there.

        Raises:
            VolumeError: A DICOM segmentation is wanted of a scan that is no DICOM series.
        """
        labels, statistics, *others = self._paths(name)
        structures = describe_structures(
            result.image, result.label_zyx, result.labels, result.channels
        )
        record = {
            "made_by": dict(result.made_by),
            "structures": {name: asdict(structure) for name, structure in structures.items()},
        }
        for path in others:
            self._write_other(path, name, result)
        if labels.is_dir():
            shutil.rmtree(labels)
        labels.unlink(missing_ok=True)
        atomic_write_json(statistics, record)
        if self.per_structure:
            _write_structures(labels, result)
        else:
            write_label(labels, result.label_zyx, like=result.image, labels=result.labels)

    def _paths(self, name: str) -> list[Path]:
        endings = ["" if self.per_structure else ".nii.gz", ".statistics.json"]
        endings += [".dcm"] * self.dicom_seg + [".png"] * self.preview
        return [self.folder / f"{name}{ending}" for ending in endings]

    def _write_other(self, path: Path, name: str, result: Result) -> None:
        if path.suffix == ".dcm":
            from stunet.inference.dicom_seg import write_dicom_seg

            write_dicom_seg(path, result.label_zyx, result.image, result.labels)
        else:
            from stunet.inference.preview import draw_preview

            draw_preview(path, result.image, result.label_zyx, result.labels, name)


def _write_structures(folder: Path, result: Result) -> None:
    """One binary mask per structure, found or not, in a folder that appears when all are there."""
    temporary = temporary_sibling(folder)
    temporary.mkdir()
    try:
        for name, value in result.labels.items():
            if value != 0:
                mask_zyx = (result.label_zyx == value).astype(np.uint8)
                path = temporary / f"{name.replace('/', '_')}.nii.gz"
                write_label(path, mask_zyx, like=result.image, labels={name: 1})
        publish_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
