"""Verbs about recipes and models: nothing here trains or reads a scan."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Show, check and compare recipes.")

RecipeArgument = Annotated[str, typer.Argument(help="A recipe file or the name of a shipped one.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values that win.")
]


@app.command()
def show(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Print a recipe with every default filled in."""
    from launch.stages import schema_of
    from stunet.config import load_config, to_yaml

    typer.echo(to_yaml(load_config(schema_of(recipe), recipe, overrides or ())), nl=False)


@app.command()
def check(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Check a recipe's keys and types; print nothing but 'ok'."""
    from launch.stages import schema_of
    from stunet.config import load_config

    load_config(schema_of(recipe), recipe, overrides or ())
    typer.echo("ok")


@app.command()
def diff(left: RecipeArgument, right: RecipeArgument) -> None:
    """Print one line per value in which two recipes of a stage differ."""
    from launch.stages import schema_of
    from stunet.config import differences, load_config

    stage = schema_of(left)
    for line in differences(load_config(stage, left), load_config(stage, right)):
        typer.echo(line)


def register(root: typer.Typer) -> None:
    """Add the verb `models` to the root command."""

    @root.command()
    def models(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
        """List the networks with parameters at 1 channel and 105 classes, and FLOPs at 128^3."""
        from stunet.registry import model_rows

        rows = model_rows()
        if as_json:
            typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
            return
        typer.echo(
            f"{'name':<8} {'size':<5} {'width':>5} {'depth':>5} {'parameters':>14} {'TFLOP':>8}"
        )
        for row in rows:
            typer.echo(
                f"{row.name:<8} {row.size:<5} {row.width:>5} {row.depth:>5} "
                f"{row.parameters:>14,} {row.flops / 1e12:>8.3f}"
            )
