"""Verbs that train and use networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.cli_config import Overrides, RecipeArgument
from launch.env import keep_freed_memory
from stunet.errors import ConfigError

BundleArgument = Annotated[Path, typer.Argument(help="A bundle folder.")]
Device = Annotated[str, typer.Option(help="Torch device, e.g. cpu or cuda.")]


def register(root: typer.Typer) -> None:
    """Add this file's verbs to the root command."""
    for verb in (quickstart, pretrain, replay, export, predict, transfer, publish, doctor):
        root.command()(verb)


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


def export(
    run: Annotated[str, typer.Argument(help="Run folder, optionally RUN@STEP.")],
    out: Annotated[Path, typer.Argument(help="Bundle folder to write.")],
    weights: Annotated[
        str,
        typer.Option(help="'ema' (the moving average) or 'last'; without it what was validated."),
    ] = "",
) -> None:
    """Write a run's checkpoint as a self-describing bundle."""
    from pretrain.export import export_run

    folder, _, step = run.partition("@")
    if step and not step.isdigit():
        raise ConfigError(f"export {run}: step {step!r} is not a number; use RUN@STEP")
    kinds: dict[str, Literal["ema", "last"] | None] = {"": None, "ema": "ema", "last": "last"}
    if weights not in kinds:
        raise ConfigError(f"export --weights {weights}: give 'ema' or 'last'")
    bundle = export_run(Path(folder), out, int(step) if step else None, kinds[weights])
    typer.echo(str(bundle))


def replay(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    step: Annotated[int | None, typer.Argument(help="A step, as metrics.jsonl counts.")] = None,
    sample: Annotated[
        list[int] | None, typer.Option(help="A patch by its number, without a step; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; else in the run's.")] = None,
) -> None:
    """Make the patches of a step again, as the network saw them: picture, draws and statistics."""
    from pretrain.replay import replay as make_again

    folder, lines = make_again(run, step, sample or (), out)
    for line in lines:
        typer.echo(line)
    typer.echo(str(folder))


def predict(
    bundle: BundleArgument,
    inputs: Annotated[
        list[Path], typer.Argument(help="Image files, folders of them, DICOM series folders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the label files.")],
    classes: Annotated[str, typer.Option(help="Structures to keep, e.g. liver,spleen.")] = "",
    crop: Annotated[
        float | None,
        typer.Option(
            help="Look for the structures first at this multiple of the spacing (1 or more), then "
            "only at the box around them."
        ),
    ] = None,
    per_structure: Annotated[bool, typer.Option(help="Write a file per structure.")] = False,
    dicom_seg: Annotated[bool, typer.Option(help="Write DICOM segmentations too.")] = False,
    preview: Annotated[bool, typer.Option(help="Draw a picture of each result too.")] = False,
    mirror: Annotated[bool, typer.Option(help="Average over all flips: 8 times the work.")] = False,
    step: Annotated[float, typer.Option(help="Window step, as a fraction of the patch.")] = 0.5,
    batch: Annotated[int, typer.Option(min=1, help="Windows per forward pass.")] = 1,
    overwrite: Annotated[bool, typer.Option(help="Segment anew what is there already.")] = False,
    device: Device = "cpu",
) -> None:
    """Segment scans; each result lies on its input's exact grid."""
    from launch.predict import PredictOptions, predict_scans
    from stunet.inference.outputs import Outputs
    from stunet.inference.predictor import Wish
    from stunet.inference.sliding_window import WindowOptions

    keep_freed_memory()
    names = tuple(name.strip() for name in classes.split(",") if name.strip())
    options = PredictOptions(
        device,
        WindowOptions(step, batch, mirror_axes=(0, 1, 2) if mirror else ()),
        Wish(names or None, crop),
        overwrite,
    )
    predict_scans(bundle, inputs, Outputs(out, per_structure, dicom_seg, preview), options)


def transfer(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle folder.")] = None,
    datasets: Annotated[list[Path] | None, typer.Argument(help="Raw labelled data sets.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for predictions, scores and report.")],
    crosswalk: Annotated[
        list[str] | None,
        typer.Option(help="CROSSWALK or DATASET=CROSSWALK: a file or a shipped name; repeatable."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="RUN_A RUN_B", help="Two runs to compare.")
    ] = None,
    split: Annotated[str, typer.Option(help="Cases to use: all, val, test or train.")] = "all",
    tolerance_mm: Annotated[
        float, typer.Option(min=0, help="How far surfaces may part for NSD.")
    ] = 3.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    keep_predictions: Annotated[bool, typer.Option(help="Keep the label maps.")] = True,
    device: Device = "cpu",
) -> None:
    """Score a bundle on data sets it has not seen, by direct inference; or compare two runs."""
    if compare is not None:
        from launch.compare import compare_two

        if bundle is not None:
            raise ConfigError(f"transfer {bundle}: --compare takes two runs and no bundle")
        compare_two(*compare, out, seed)
        return
    if bundle is None or not datasets:
        raise ConfigError("transfer: give BUNDLE and DATASET..., or --compare RUN_A RUN_B")

    from finetune.transfer import TransferOptions
    from launch.transfer import transfer_datasets

    keep_freed_memory()
    options = TransferOptions(
        only=split,
        crosswalks=tuple(crosswalk or ()),
        tolerance_mm=tolerance_mm,
        seed=seed,
        device=device,
        keep_predictions=keep_predictions,
    )
    transfer_datasets(bundle, datasets, out, options)


def publish(
    bundle: BundleArgument,
    destination: Annotated[Path, typer.Argument(help="Folder to make.")],
) -> None:
    """Verify a bundle and copy it to another folder, whole or not at all."""
    from launch.publish import publish as copy

    typer.echo(str(copy(bundle, destination)))


def doctor(
    recipe: Annotated[str | None, typer.Argument(help="A recipe to examine before a run.")] = None,
    overrides: Overrides = None,
) -> None:
    """Print what this machine offers; with a recipe, whether a run of it would fail, and why."""
    from launch.doctor import examine, report

    if recipe is None:
        typer.echo(report())
        return
    table, sound = examine(recipe, overrides or (), sys.stdout.isatty())
    typer.echo(table)
    raise typer.Exit(0 if sound else 2)
