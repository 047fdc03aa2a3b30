"""Verbs that start other verbs: on this machine, on a cluster, and what their scripts call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from launch.cli_config import Overrides, RecipeArgument
from stunet.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Start a verb on several processes or machines.")

Preflight = Annotated[
    bool, typer.Option("--preflight/--no-preflight", help="Look first for what would fail.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the scripts and do nothing.")]


@app.command()
def local(
    verb: Annotated[str, typer.Argument(help="The verb to start: pretrain or finetune.")],
    recipe: RecipeArgument,
    overrides: Overrides = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="On this machine; else what on=... says, or 2.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, hidden=True)] = 1,
    rendezvous: Annotated[str, typer.Option(hidden=True)] = "",
    preflight: Preflight = True,
) -> None:
    """Start a verb on several processes of this machine with torchrun."""
    from launch.env import node_index
    from launch.launch_config import split_values
    from launch.local import Node, launch
    from launch.stages import check_trains

    check_trains("local", verb)
    config, values = split_values(overrides or ())
    node = Node(node_index(), nodes, rendezvous) if rendezvous else None
    count = processes or config.per_node
    if preflight and node is None:  # a batch script's was looked at before it was submitted
        from launch.preflight import require

        require(verb, recipe, values, replace(config, processes=count), local=True)
    raise typer.Exit(launch([verb, recipe, *values], count, node))


@app.command()
def slurm(
    verb: Annotated[str, typer.Argument(help="pretrain, finetune, or pipeline: all in a chain.")],
    recipe: RecipeArgument,
    overrides: Overrides = None,
    transfer: Annotated[
        list[str] | None, typer.Option(help="Pipeline: a raw data set to evaluate on; repeatable.")
    ] = None,
    publish: Annotated[str, typer.Option(help="Pipeline: where the bundle goes.")] = "",
    dry_run: DryRun = False,
    preflight: Preflight = True,
) -> None:
    """Write a batch script into the run folder and submit it; nodes=2 gpus=8 on=FILE and so on."""
    from launch.launch_config import split_values
    from launch.stages import TRAINING

    config, values = split_values(overrides or ())
    if preflight and not dry_run and verb in (*TRAINING, "pipeline"):
        from launch.preflight import require

        training = "pretrain" if verb == "pipeline" else verb
        require(training, recipe, values, config, local=False)
    if verb == "pipeline":
        from launch.slurm_pipeline import launch_pipeline

        launch_pipeline(config, recipe, values, transfer or (), publish, dry_run)
        return
    from launch.slurm import launch_training

    if transfer or publish:
        raise ConfigError("launch slurm: --transfer and --publish are for the verb 'pipeline'")
    launch_training(config, verb, recipe, values, dry_run)


@app.command()
def drill(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder for everything made; must be shared.")] = Path(
        "drill"
    ),
) -> None:
    """Interrupt a tiny job on this cluster and check that it continues to the same weights."""
    from launch.launch_config import split_values
    from launch.slurm_drill import drill as run

    config, values = split_values(overrides or ())
    if values:
        raise ConfigError(f"launch drill: {values[0]!r} is no launch value; its recipe is fixed")
    typer.echo(run(config, out.absolute()))


@app.command(hidden=True)
def settle(
    run: Path,
    code: int,
    stage: Annotated[str, typer.Option()],
    log: Annotated[Path, typer.Option()],
    asked: Annotated[str, typer.Option()] = "",
    max_failures: Annotated[int, typer.Option()] = 0,
) -> None:
    """For batch scripts: record how a job ended; exit code 75 asks for another start."""
    from launch.settle import settle as decide

    raise typer.Exit(decide(run, code, stage, log, asked, max_failures))
