"""The TotalSegmentator layout, v1 and v2: `CASE/ct.nii.gz`, `CASE/segmentations/NAME.nii.gz`.

MR sets have `mri.nii.gz` instead. `meta.csv`, if there, gives the official split; copies of v1
without a `split` column have none. Label values are the ranks of the names in ASCII order, from 1:
the order of the released STU-Net weights. Masks may overlap: the higher value, hence the later
name, wins (`stunet.io.volume.read_label_folder`), e.g. `vertebrae_L1` over `spinal_cord`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from data_tools.raw_files import check_cases, subfolders, volumes_in
from data_tools.raw_labels import ANNOTATED, read_annotated
from stunet.errors import DataError
from stunet.types import RawCase, RawDataset

IMAGES = {"ct.nii.gz": "CT", "mri.nii.gz": "MR"}
MASKS = "segmentations"


def is_totalsegmentator(root: Path) -> bool:
    """Whether the folder has the marks of this layout."""
    return any((folder / name).is_file() for folder in subfolders(root) for name in IMAGES)


def ingest_totalsegmentator(root: Path) -> RawDataset:
    """List the cases of a TotalSegmentator folder (see `ingest`)."""
    split_of = _official_split(root / "meta.csv")
    images = {folder.name: _image(folder) for folder in subfolders(root)}
    kinds = {path.name for path in images.values()}
    if len(kinds) > 1:
        raise DataError(f"{root}: has both {' and '.join(sorted(kinds))}; one folder per modality")
    names = _structure_names(root, list(images))
    cases = [
        RawCase(case_id, (str(path),), str(path.parent / MASKS), _split(split_of, case_id, root))
        for case_id, path in images.items()
    ]
    return RawDataset(
        name=root.name,
        layout="totalsegmentator",
        channel_names=(IMAGES[kinds.pop()],),
        labels={"background": 0, **{name: rank for rank, name in enumerate(names, start=1)}},
        ignore_label=None,
        cases=check_cases(cases, root),
    )


def _image(folder: Path) -> Path:
    for name in IMAGES:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"case {folder.name}: {folder} has no {' or '.join(IMAGES)}; add the image")


def _structure_names(root: Path, case_ids: list[str]) -> list[str]:
    """The names of all masks, in ASCII order; a case may lack one only if `annotated.json` says so.

    A missing file could mean "absent" or "not annotated", and training on the wrong one of the two
    would teach the network that the structure is background.
    """
    annotated = read_annotated(root)
    masks = {case_id: root / case_id / MASKS for case_id in case_ids}
    for case_id, folder in masks.items():
        if not folder.is_dir():
            raise DataError(f"case {case_id}: label missing: {folder} does not exist; add it")
    names_of = {case_id: {name for name, _ in volumes_in(masks[case_id])} for case_id in case_ids}
    names = set().union(*names_of.values())
    for case_id, own in names_of.items():
        missing = names.intersection(annotated.get(case_id, names)) - own
        if missing:
            raise DataError(
                f"case {case_id}: {masks[case_id]} lacks {min(missing)}, which other cases have; "
                "add an empty mask where the structure is absent, or list what is annotated in "
                f"{ANNOTATED}"
            )
    return sorted(names)


def _official_split(meta: Path) -> dict[str, str] | None:
    """Case id to `train`, `val` or `test`; None without `meta.csv` or its columns."""
    if not meta.is_file():
        return None
    with meta.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        rows = list(csv.DictReader(file, delimiter=";" if ";" in header else ","))
    if not rows or not {"image_id", "split"} <= set(rows[0]):
        return None
    for number, row in enumerate(rows, start=2):
        if row["split"] not in ("train", "val", "test"):
            raise DataError(
                f"{meta} line {number}: split is {row['split']!r}; use train, val or test"
            )
    return {row["image_id"]: row["split"] for row in rows}


def _split(split_of: dict[str, str] | None, case_id: str, root: Path) -> Any:
    if split_of is None:
        return None
    if case_id not in split_of:
        raise DataError(f"case {case_id}: not listed in {root / 'meta.csv'}; add a line with split")
    return split_of[case_id]
