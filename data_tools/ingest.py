"""Recognise a folder of labelled scans and list its cases; the first step of every data set.

Only names and small text files are read here: no image is opened (see `fingerprint.py`).
"""

from __future__ import annotations

from pathlib import Path

from data_tools.layouts_bids import ingest_bids, is_bids
from data_tools.layouts_dicom import ingest_dicom, is_dicom
from data_tools.layouts_msd import ingest_msd, is_msd
from data_tools.layouts_nnunet import ingest_nnunet, is_nnunet
from data_tools.layouts_pairs import ingest_beside, ingest_pairs, is_beside, is_pairs
from data_tools.layouts_totalsegmentator import ingest_totalsegmentator, is_totalsegmentator
from data_tools.raw_labels import with_annotated
from data_tools.splits import ALL_FOLDS, with_fold
from data_tools.union import UnionConfig, unite
from stunet.config import load_config
from stunet.errors import ConfigError, DataError
from stunet.types import RawDataset

LAYOUTS = (
    (is_msd, ingest_msd),
    (is_nnunet, ingest_nnunet),
    (is_bids, ingest_bids),
    (is_totalsegmentator, ingest_totalsegmentator),
    (is_pairs, ingest_pairs),
    (is_beside, ingest_beside),
    (is_dicom, ingest_dicom),
)
RECOGNISED = (
    "nnU-Net raw v2 or Decathlon (dataset.json, imagesTr/, labelsTr/), "
    "BIDS (dataset_description.json, sub-*/, derivatives/), "
    "TotalSegmentator (CASE/ct.nii.gz or CASE/mri.nii.gz, CASE/segmentations/), "
    "pairs (images/, labels/), beside each other (CASE.nii.gz or CASE/, CASE_seg.nii.gz), "
    "DICOM (CASE/dicom/, CASE/seg.nii.gz)"
)
UNION_SUFFIXES = (".yaml", ".yml")


def ingest(source: str | Path, fold: str = "0") -> RawDataset:
    """List the cases of a raw data set.

    Args:
        source: Root of the data set; its layout is recognised by the files in it. Or a YAML file
            that names several (`union.UnionConfig`).
        fold: Which fold of `splits_final.json` to use where there is one; `all` trains on the
            validation cases too.

    Returns:
        The cases sorted by id, with the data set's own split where it has one.

    Raises:
        ConfigError: there is no such fold, or the YAML file has an unknown key or a wrong type.
        DataError: the folder is missing, empty or of no known layout, a case has no label or an id
            occurs twice.
    """
    root = Path(source).absolute()
    if root.suffix in UNION_SUFFIXES and root.is_file():
        return _ingest_union(root, fold)
    if not root.is_dir():
        raise DataError(f"{source}: no such folder; check the path")
    if not any(root.iterdir()):
        raise DataError(f"{source}: the folder is empty; check the path")
    for recognise, read in LAYOUTS:
        if recognise(root):
            return with_fold(with_annotated(read(root), root), root, fold)
    raise DataError(f"{source}: unknown layout; recognised are: {RECOGNISED}")


def _ingest_union(place: Path, fold: str) -> RawDataset:
    if fold not in ("0", ALL_FOLDS):
        raise ConfigError(f"fold={fold}: {place} unites data sets; set the fold of each there")
    config = load_config(UnionConfig, place)
    members = [
        ingest(place.parent / member.raw, ALL_FOLDS if fold == ALL_FOLDS else member.fold)
        for member in config.datasets
    ]
    return unite(config, members, place)
