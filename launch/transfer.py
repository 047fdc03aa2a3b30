"""The verb `transfer`: a bundle and raw data sets in, scores and a report out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from data_tools.ingest import ingest
from finetune.scores import DatasetScore
from finetune.transfer import TransferOptions, transfer
from launch.command import typed_command
from launch.progress import case_progress
from stunet.metrics.intervals import Interval

UNSCORED_TOLD = 10  # classes per data set; the report lists all


def transfer_datasets(
    bundle: Path, datasets: Sequence[Path], out: Path, options: TransferOptions
) -> None:
    """Score the bundle on each data set, print the mean Dice of each and where the report lies."""
    raw = [ingest(folder) for folder in datasets]
    options = replace(options, command=typed_command())
    with case_progress("transfer") as advance:
        scores = transfer(bundle, raw, out, options, advance)
    for score in scores:
        _tell(score)
    typer.echo(f"report {out / 'report.html'}")


def _tell(score: DatasetScore) -> None:
    typer.echo(
        f"{score.dataset.name}: mean Dice {_with_interval(score.means.overall['Dice'])} over "
        f"{len(score.matching.scored)} structures in {len(score.cases)} cases"
    )
    unscored = list(score.matching.unscored.items())
    for name, reason in unscored[:UNSCORED_TOLD]:
        typer.echo(f"  {name}: not scored, {reason}")
    if len(unscored) > UNSCORED_TOLD:
        typer.echo(f"  {len(unscored) - UNSCORED_TOLD} more are not scored, see the report")


def _with_interval(dice: Interval) -> str:
    if dice.low != dice.low:
        return f"{dice.mean:.3f}"
    return f"{dice.mean:.3f} (95% {dice.low:.3f} to {dice.high:.3f})"
