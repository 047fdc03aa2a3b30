"""The verb `convert`: a checkpoint of STU-Net or nnU-Net in, a bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(root: typer.Typer) -> None:
    """Add the verb to the root command."""
    root.command()(convert)


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="A .pth or .model file, or the folder of a model or a fold.")
    ],
    out: Annotated[Path, typer.Argument(help="Bundle folder to write.")],
    orientation: Annotated[
        str | None,
        typer.Option(help="How the training scans are stored, as data show prints it, e.g. LPS."),
    ] = None,
    plans: Annotated[
        Path | None, typer.Option(help="The plan, where none lies beside the weights.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="A dataset.json or labels.json, or 'stunet': the released 105."),
    ] = None,
    configuration: Annotated[
        str | None, typer.Option(help="Of the plan, where the weights do not say.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Of the weights, an SPDX identifier.")] = "other",
) -> None:
    """Write a bundle from released STU-Net weights or a checkpoint of nnU-Net."""
    from stunet.convert.convert import ConvertOptions
    from stunet.convert.convert import convert as run

    options = ConvertOptions(orientation, plans, labels, configuration, licence)
    done = run(checkpoint, out, options)
    recipe = done.preprocessing
    schemes = ", ".join(f"{channel.name} ({channel.scheme})" for channel in recipe.channels)
    strides = " ".join("x".join(map(str, step)) for step in done.model.strides)
    typer.echo(f"network {done.model.name} {done.model.size}, strides {strides} (z y x)")
    typer.echo(f"spacing {recipe.spacing_mm} mm, patch {recipe.patch_size}, input {schemes}")
    regions = len(done.outputs.regions)
    told = f"{regions} regions" if regions else f"{len(done.outputs.labels) - 1} structures"
    typer.echo(told)
    for note in done.notes:
        typer.echo(f"note: {note}")
    typer.echo(str(done.bundle))
