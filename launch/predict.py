"""The verb `predict`: scans in, label files out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import stunet
from launch.progress import case_progress
from stunet.errors import DataError
from stunet.io.volume import file_stem


def predict_files(bundle: Path, inputs: Sequence[Path], out: Path, device: str) -> None:
    """Segment every input into `out/<name>.nii.gz`.

    Raises:
        DataError: Two inputs would be written to the same file.
    """
    targets = [out / f"{file_stem(path)}.nii.gz" for path in inputs]
    for target in targets:
        if targets.count(target) > 1:
            raise DataError(f"{target}: two inputs have this name; predict them into two folders")
    predictor = stunet.load(bundle, device=device)
    out.mkdir(parents=True, exist_ok=True)
    with case_progress("predict") as advance:
        for done, (path, target) in enumerate(zip(inputs, targets, strict=True), start=1):
            predictor.predict_file(path, target)
            advance(done, len(inputs), path.name)
