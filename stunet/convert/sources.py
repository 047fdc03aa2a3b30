"""Find the files that belong to a checkpoint, as nnU-Net's two generations lay them out.

v2  MODEL/plans.json, MODEL/dataset.json, MODEL/fold_0/checkpoint_final.pth
v1  MODEL/fold_0/model_final_checkpoint.model and .model.pkl beside it
STU-Net's release: NAME.model and NAME.model.pkl
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stunet.convert.checkpoint import read_record
from stunet.errors import CheckpointError

FINAL = ("checkpoint_final.pth", "model_final_checkpoint.model")  # what nnU-Net predicts with
PLANS, DATASET = "plans.json", "dataset.json"


@dataclass(frozen=True)
class Sources:
    """Files of one checkpoint.

    Attributes:
        weights: The `.pth` or `.model`.
        record: v1: the `.model.pkl`, if it is there.
        plans: v2: `plans.json`, if it is there.
        dataset: `dataset.json`, if it is there.
    """

    weights: Path
    record: Path | None
    plans: Path | None
    dataset: Path | None


def find_sources(path: Path) -> Sources:
    """Return the files that lie where nnU-Net puts them.

    Args:
        path: A weight file, the folder of a fold, or the folder of a model with one fold.

    Raises:
        CheckpointError: There is no checkpoint, or there are several.
    """
    weights = _weights(path) if path.is_dir() else path
    if not weights.is_file():
        raise CheckpointError(f"convert {path}: does not exist")
    record = weights.with_name(weights.name + ".pkl")
    folders = (weights.absolute().parent, weights.absolute().parent.parent)
    return Sources(
        weights=weights,
        record=record if record.is_file() else None,
        plans=_first(folders, PLANS),
        dataset=_first(folders, DATASET),
    )


def read_json_or_pickle(path: Path) -> Any:
    """Read a plan or label file of JSON, or of a plain pickle if it ends in `.pkl`.

    Raises:
        CheckpointError: It is absent or malformed.
    """
    if path.suffix == ".pkl":
        return read_record(path)
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"convert {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"convert {path}: is not JSON ({reason}); fetch it again") from None


def _weights(folder: Path) -> Path:
    folds = sorted(fold for fold in folder.glob("fold_*") if fold.is_dir())
    if len(folds) > 1:
        raise CheckpointError(
            f"convert {folder}: has {', '.join(fold.name for fold in folds)}; a bundle holds one "
            "network: give the folder of one fold"
        )
    place = folds[0] if folds else folder
    found = [place / name for name in FINAL if (place / name).is_file()]
    if not found:
        raise CheckpointError(f"convert {place}: has no {' or '.join(FINAL)}; give the weight file")
    return found[0]


def _first(folders: tuple[Path, ...], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
