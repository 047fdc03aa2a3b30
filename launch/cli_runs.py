"""Verbs about runs that were started: which there are, how they stand, what they did."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from stunet.errors import ConfigError, DataError

Stale = Annotated[
    float, typer.Option(min=0, help="Minutes of silence after which a run counts as dead.")
]
STALE_MIN = 15.0  # a rank that hangs for so long ends itself: loop.hang_timeout_s


def register(root: typer.Typer) -> None:
    """Add the verb `runs` to the root command."""
    root.command()(runs)


def runs(
    folder: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FOLDER] | show RUN", help="Where to look: runs/, else here."),
    ] = None,
    stale_minutes: Stale = STALE_MIN,
) -> None:
    """List runs: state, step, speed, time left, restarts, loss, Dice; 'show RUN' draws one."""
    words = folder or []
    if words[:1] == ["show"] and len(words) == 2:
        _show(Path(words[1]), stale_minutes)
    elif len(words) > 1 or words == ["show"]:
        raise ConfigError(f"runs {' '.join(words)}: give one FOLDER, or 'show' and one run")
    else:
        _list(Path(words[0]) if words else _default_folder(), stale_minutes)


def _list(folder: Path, stale_minutes: float) -> None:
    from launch.runs import find_runs, summarise
    from launch.runs_plot import table

    if not folder.is_dir():
        raise DataError(f"runs {folder}: no such folder; name one that holds runs")
    now = time.time()
    found = [summarise(run, now, stale_minutes * 60) for run in find_runs(folder)]
    typer.echo(table(found, folder) if found else f"no runs below {folder}")


def _show(run: Path, stale_minutes: float) -> None:
    from launch.runs import summarise
    from launch.runs_page import show
    from launch.runs_plot import table

    plots, page = show(run, stale_minutes * 60)
    typer.echo(table([summarise(run, time.time(), stale_minutes * 60)], run))
    for paragraph in plots:
        typer.echo(f"\n{paragraph}")
    typer.echo(f"\npage {page}")


def _default_folder() -> Path:
    return Path("runs") if Path("runs").is_dir() else Path()
