"""Verbs that train and use networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launch.cli_config import Overrides, RecipeArgument
from launch.env import keep_freed_memory
from stunet.errors import ConfigError

BundleArgument = Annotated[Path, typer.Argument(help="A bundle folder.")]
Device = Annotated[str, typer.Option(help="Torch device, e.g. cpu or cuda.")]


def register(root: typer.Typer) -> None:
    """Add this file's verbs to the root command."""
    for verb in (quickstart, pretrain, export, predict, transfer, doctor):
        root.command()(verb)
    launch = typer.Typer(no_args_is_help=True, help="Start a verb on several processes.")
    launch.command("local")(launch_local)
    launch.callback()(lambda: None)  # keeps 'local' a sub-command while it is the only one
    root.add_typer(launch, name="launch")


def quickstart(
    overrides: Overrides = None,
    data: Annotated[
        Path | None, typer.Option(help="Raw labelled scans; a phantom data set without it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything made.")] = Path("quickstart"),
) -> None:
    """Run the whole pipeline: data, two-process training, bundle, held-out evaluation, picture."""
    from launch.quickstart import quickstart as run

    keep_freed_memory()
    run(data, out, overrides or ())


def pretrain(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Train from a recipe in this process, or in each process that torchrun started."""
    from pretrain.config import PretrainConfig
    from pretrain.train import train
    from stunet.config import load_config

    keep_freed_memory()
    train(load_config(PretrainConfig, recipe, overrides or ()))


def launch_local(
    verb: Annotated[str, typer.Argument(help="The verb to start: pretrain.")],
    recipe: RecipeArgument,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 2,
) -> None:
    """Start a verb on several processes of this machine with torchrun."""
    from launch.local import launch

    if verb != "pretrain":
        raise ConfigError(f"launch local: verb {verb!r} is not 'pretrain'; start it without launch")
    raise typer.Exit(launch([verb, recipe, *(overrides or ())], processes))


def export(
    run: Annotated[str, typer.Argument(help="Run folder, optionally RUN@STEP.")],
    out: Annotated[Path, typer.Argument(help="Bundle folder to write.")],
) -> None:
    """Write a run's checkpoint as a self-describing bundle."""
    from pretrain.export import export_run

    folder, _, step = run.partition("@")
    if step and not step.isdigit():
        raise ConfigError(f"export {run}: step {step!r} is not a number; use RUN@STEP")
    typer.echo(str(export_run(Path(folder), out, int(step) if step else None)))


def predict(
    bundle: BundleArgument,
    inputs: Annotated[list[Path], typer.Argument(help="Image files or DICOM series folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the label files.")],
    device: Device = "cpu",
) -> None:
    """Segment scans; each result lies on its input's exact grid."""
    from launch.predict import predict_files

    keep_freed_memory()
    predict_files(bundle, inputs, out, device)


def transfer(
    bundle: BundleArgument,
    datasets: Annotated[list[Path], typer.Argument(help="Raw labelled data sets.")],
    out: Annotated[Path, typer.Option(help="Folder for predictions and scores.")],
    split: Annotated[str, typer.Option(help="Cases to use: all, val, test or train.")] = "all",
    device: Device = "cpu",
) -> None:
    """Score a bundle on data sets that it has not seen, by direct inference."""
    from launch.transfer import transfer_datasets

    keep_freed_memory()
    transfer_datasets(bundle, datasets, out, split, device)


def doctor() -> None:
    """Print what this installation and machine offer."""
    from launch.doctor import report

    typer.echo(report())
