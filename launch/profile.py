"""The verb `profile`: a look inside some steps of a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from launch.cli_config import Overrides, RecipeArgument
from launch.env import keep_freed_memory


def register(root: typer.Typer) -> None:
    """Add the verb to the root command."""
    root.command()(profile)


def profile(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to profile, after one more.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for trace and table.")] = Path("profile"),
) -> None:
    """Take some steps under torch's profiler: a Chrome trace, a table of operations, the waits."""
    from launch.stages import schema_of, task
    from stunet.config import load_config
    from stunet.training.profile import TABLE, TRACE, profile_steps

    keep_freed_memory()
    config = load_config(schema_of(recipe), recipe, ["out=NONE", *(overrides or ())])
    found = profile_steps(config, partial(task, config), steps, out)
    if found is None:
        return
    typer.echo(found.table)
    typer.echo(
        f"{found.step_s:.3f} s a step, {found.data_wait_fraction:.0%} of it waiting for data; "
        f"peak {found.peak_bytes / 2**20:.0f} MiB of tensors"
    )
    typer.echo(f"{out / TABLE}, {out / TRACE} (for chrome://tracing or ui.perfetto.dev)")
