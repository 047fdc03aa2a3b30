"""Verbs that train and use networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.cli_config import Overrides, RecipeArgument
from launch.env import keep_freed_memory
from stunet.errors import ConfigError

BundleArgument = Annotated[
    str, typer.Argument(help="A bundle: a folder, hf://USER/NAME@REVISION or another URL.")
]
Device = Annotated[str, typer.Option(help="Torch device, e.g. cpu or cuda.")]


def register(root: typer.Typer) -> None:
    """Add this file's verbs to the root command."""
    for verb in (
        quickstart,
        pretrain,
        finetune,
        protocol,
        replay,
        export,
        predict,
        transfer,
        publish,
        doctor,
    ):
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


def finetune(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Train from the weights of a bundle, init=BUNDLE, as `pretrain` does from random ones."""
    from finetune.config import FinetuneConfig
    from finetune.train import train
    from stunet.config import load_config

    keep_freed_memory()
    train(load_config(FinetuneConfig, recipe, overrides or ()))


def protocol(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands of all trainings, do nothing.")
    ] = False,
) -> None:
    """Fine-tune from init=BUNDLE and from scratch on few and many cases; compare on held-out ones.

    Beside the recipe's values it takes its own: raw=SCANS, cases=[5,10,100%], repeats=1,
    arms=[pretrained,scratch], folds=[0,1,2,3,4], tolerance_mm=3, processes=1, device=cpu.
    """
    from launch.protocol import protocol as run

    keep_freed_memory()
    run(recipe, overrides or (), dry_run)


def export(
    run: Annotated[str, typer.Argument(help="Run folder, optionally RUN@STEP.")],
    out: Annotated[Path, typer.Argument(help="Bundle folder to write.")],
    weights: Annotated[
        str,
        typer.Option(help="'ema' (the moving average) or 'last'; without it what was validated."),
    ] = "",
    form: Annotated[
        str,
        typer.Option("--format", help="From a bundle instead of a run: 'onnx' or 'monai'."),
    ] = "bundle",
) -> None:
    """Write a run's checkpoint as a self-describing bundle, or a bundle for other software."""
    if form != "bundle":
        from launch.export import export_as

        typer.echo(str(export_as(form, run, out)))
        return
    from launch.stages import schema_of_run
    from stunet.training.export import export_run

    folder, _, step = run.partition("@")
    if step and not step.isdigit():
        raise ConfigError(f"export {run}: step {step!r} is not a number; use RUN@STEP")
    kinds: dict[str, Literal["ema", "last"] | None] = {"": None, "ema": "ema", "last": "last"}
    if weights not in kinds:
        raise ConfigError(f"export --weights {weights}: give 'ema' or 'last'")
    run_folder = Path(folder)
    schema = schema_of_run(run_folder)
    bundle = export_run(run_folder, out, schema, int(step) if step else None, kinds[weights])
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
    from launch.stages import schema_of_run
    from stunet.training.replay import replay as make_again

    folder, lines = make_again(run, schema_of_run(run), step, sample or (), out)
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
    from stunet.hub.fetch import fetch
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
    predict_scans(fetch(bundle), inputs, Outputs(out, per_structure, dicom_seg, preview), options)


def transfer(
    bundle: Annotated[
        str | None, typer.Argument(help="A bundle: a folder, hf://USER/NAME or another URL.")
    ] = None,
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
    from stunet.hub.fetch import fetch

    keep_freed_memory()
    options = TransferOptions(
        only=split,
        crosswalks=tuple(crosswalk or ()),
        tolerance_mm=tolerance_mm,
        seed=seed,
        device=device,
        keep_predictions=keep_predictions,
    )
    transfer_datasets(fetch(bundle), datasets, out, options)


def publish(
    bundle: BundleArgument,
    destination: Annotated[
        str, typer.Argument(help="hf://USER/NAME, another URL, or a folder to make.")
    ],
    licence: Annotated[str, typer.Option(help="SPDX identifier of the weights' licence.")] = "",
    licence_override: Annotated[
        str, typer.Option(help="Why it is right although the data's licences seem to forbid it.")
    ] = "",
    report: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a transfer evaluation of this bundle; repeatable."),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="A model card instead of the bundle's; keeps its text.")
    ] = None,
    shard_bytes: Annotated[
        int | None, typer.Option(min=1, help="Cut the weights anew into files of this size.")
    ] = None,
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
) -> None:
    """Check a bundle and put it where others find it, whole or not at all."""
    from stunet.hub.publish import Release
    from stunet.hub.publish import publish as send

    release = Release(
        licence or None, licence_override or None, tuple(report or ()), card, shard_bytes, private
    )
    typer.echo(send(bundle, destination, release))


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
