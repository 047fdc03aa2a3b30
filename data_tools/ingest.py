"""Recognise a folder of labelled scans and list its cases; the first step of every data set.

Only names and small text files are read here: no image is opened (see `fingerprint.py`).
"""

from __future__ import annotations

from pathlib import Path

from data_tools.layouts_nnunet import ingest_nnunet, is_nnunet
from data_tools.layouts_pairs import ingest_pairs, is_pairs
from data_tools.layouts_totalsegmentator import ingest_totalsegmentator, is_totalsegmentator
from stunet.errors import DataError
from stunet.types import RawDataset

LAYOUTS = (
    (is_nnunet, ingest_nnunet),
    (is_totalsegmentator, ingest_totalsegmentator),
    (is_pairs, ingest_pairs),
)
RECOGNISED = (
    "nnU-Net raw v2 (dataset.json, imagesTr/, labelsTr/), "
    "TotalSegmentator (CASE/ct.nii.gz or CASE/mri.nii.gz, CASE/segmentations/), "
    "pairs (images/, labels/)"
)


def ingest(folder: str | Path) -> RawDataset:
    """List the cases of a raw data set.

    Args:
        folder: Root of the data set; its layout is recognised by the files in it.

    Returns:
        The cases sorted by id, with the data set's own split where it has one.

    Raises:
        DataError: the folder is missing, empty or of no known layout, a case has no label or an id
            occurs twice.
    """
    root = Path(folder).absolute()
    if not root.is_dir():
        raise DataError(f"{folder}: no such folder; check the path")
    if not any(root.iterdir()):
        raise DataError(f"{folder}: the folder is empty; check the path")
    for recognise, read in LAYOUTS:
        if recognise(root):
            return read(root)
    raise DataError(f"{folder}: unknown layout; recognised are: {RECOGNISED}")
