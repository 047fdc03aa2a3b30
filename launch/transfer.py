"""The verb `transfer`: a bundle and raw data sets in, scores out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from data_tools.ingest import ingest
from finetune.transfer import transfer
from launch.progress import case_progress


def transfer_datasets(
    bundle: Path, datasets: Sequence[Path], out: Path, split: str, device: str
) -> None:
    """Score the bundle on each data set and print the mean Dice of each."""
    raw = [ingest(folder) for folder in datasets]
    with case_progress("transfer") as advance:
        scores = transfer(bundle, raw, out, only=split, device=device, on_progress=advance)
    for score in scores:
        typer.echo(
            f"{score.dataset.name}: mean Dice {score.foreground_mean():.3f} over "
            f"{len(score.matching.scored)} structures in {len(score.cases)} cases"
        )
        for name, reason in score.matching.unscored.items():
            typer.echo(f"  {name}: not scored, {reason}")
