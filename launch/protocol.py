"""The verb `protocol`: what a bundle is worth beside the same budget from scratch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import typer

from data_tools.ingest import ingest
from finetune.protocol import run_protocol
from finetune.protocol_results import Results
from finetune.protocol_trials import ProtocolConfig, Trial, plan_protocol
from launch.command import typed_command
from launch.local import train_to_end
from stunet.config import load_config

OWN_KEYS = frozenset(entry.name for entry in fields(ProtocolConfig))


def protocol(recipe: str, values: Sequence[str], dry_run: bool) -> None:
    """Train, score and report, or print the commands of all trainings.

    Args:
        recipe: Of a fine-tuning.
        values: `key=value` for it and for `ProtocolConfig`.
        dry_run: Print and do nothing.

    Raises:
        Preempted, TrainingError: As `train_to_end`.
    """
    own = [value for value in values if value.partition("=")[0] in OWN_KEYS]
    rest = [value for value in values if value not in own]
    planned = plan_protocol(recipe, rest, load_config(ProtocolConfig, None, own))
    if dry_run:
        for trial in planned.trials:
            typer.echo(shlex.join(["stunet", *trial.command]))
        return

    def announce(number: int, trial: Trial) -> None:
        typer.echo(f"{number + 1}/{len(planned.trials)} {trial.folder.name}", err=True)

    results = run_protocol(
        planned,
        ingest(planned.how.raw),
        lambda trial: train_to_end(trial.command, planned.how.processes),
        typed_command(),
        announce,
    )
    _tell(results)
    typer.echo(f"report {Path(planned.config.out) / 'report.html'}")


def _tell(results: Results) -> None:
    """A line per arm and number of cases, and per gain."""
    for point in results.points:
        dice = point.means["Dice"]
        typer.echo(
            f"cases={point.trained_on:g} {point.arm}: mean Dice {dice.mean:.3f}"
            f" (95% {dice.low:.3f} to {dice.high:.3f})"
        )
    for gain in results.gains:
        test = gain.tests["Dice"]
        gap = test.difference
        typer.echo(
            f"cases={gain.trained_on:g} pretrained - scratch: {gap.mean:+.3f}"
            f" ({gap.low:+.3f} to {gap.high:+.3f}), p {test.p_holm:.3f} (Holm): {gain.verdict}"
        )
