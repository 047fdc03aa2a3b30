"""The verb `transfer --compare`: two finished runs in, a page out; no network, hence no torch."""

from __future__ import annotations

from pathlib import Path

import typer

from finetune.comparison import compare_runs
from launch.command import typed_command


def compare_two(run_a: Path, run_b: Path, out: Path, seed: int) -> None:
    """Compare two runs and print where the page lies."""
    typer.echo(f"comparison {compare_runs(run_a, run_b, out, seed, typed_command())}")
