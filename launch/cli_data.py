"""Verbs about data: from a raw folder to a verified store, and pictures of either."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from launch.cli_config import Overrides

app = typer.Typer(no_args_is_help=True, help="Ingest, plan, prepare, verify and show data.")

Raw = Annotated[Path, typer.Argument(help="Raw data set: nnU-Net, TotalSegmentator or pairs.")]
Recipe = Annotated[str | None, typer.Option(help="A recipe such as data/totalsegmentator.")]


@app.command()
def ingest(
    raw: Raw, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """Recognise a raw data set and list what it holds; reads no image."""
    from dataclasses import asdict

    from data_tools.ingest import ingest as ingest_raw

    found = ingest_raw(raw)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    splits = Counter(case.split or "not declared" for case in found.cases)
    typer.echo(
        f"{found.name}: {found.layout} layout, {len(found.cases)} cases, licence {found.licence}"
    )
    typer.echo(f"channels: {', '.join(found.channel_names)}")
    typer.echo(f"splits: {', '.join(f'{name} {count}' for name, count in splits.items())}")
    typer.echo("labels: " + ", ".join(f"{value} {name}" for name, value in found.labels.items()))


@app.command()
def phantom(out: Path, overrides: Overrides = None) -> None:
    """Make a deterministic CT-like labelled data set."""
    from data_tools.phantom import PhantomConfig, write_phantom
    from stunet.config import load_config

    config = load_config(PhantomConfig, None, overrides or ())
    typer.echo(f"{write_phantom(out, config)}: {config.cases} cases, {config.classes} structures")


@app.command()
def plan(raw: Raw, recipe: Recipe = None, overrides: Overrides = None) -> None:
    """Print the fingerprint of a raw data set and what preparation would do with it."""
    from data_tools.fingerprint import fingerprint
    from data_tools.ingest import ingest as ingest_raw
    from data_tools.plan import describe
    from data_tools.plan import plan as make_plan
    from data_tools.prepare import PrepareConfig
    from data_tools.splits import assign_splits
    from stunet.config import load_config

    config = load_config(PrepareConfig, recipe, overrides or ())
    seen = fingerprint(assign_splits(ingest_raw(raw), config.holdout))
    typer.echo(describe(make_plan(seen, config.plan), seen))


@app.command()
def prepare(raw: Raw, out: Path, recipe: Recipe = None, overrides: Overrides = None) -> None:
    """Resample every case and write a sharded zarr v3 store; the same command continues."""
    from data_tools.ingest import ingest as ingest_raw
    from data_tools.prepare import PrepareConfig
    from data_tools.prepare import prepare as prepare_store
    from launch.progress import case_progress
    from stunet.config import load_config

    config = load_config(PrepareConfig, recipe, overrides or ())
    with case_progress("prepare") as advance:
        store = prepare_store(ingest_raw(raw), out, config, advance, on_plan=typer.echo)
    typer.echo(f"store {store}")


@app.command()
def verify(store: Path) -> None:
    """Read everything in a store and name what is damaged or inconsistent."""
    from data_tools.verify import verify as verify_store

    findings = verify_store(store)
    for finding in findings:
        typer.echo(str(finding))
    typer.echo(f"{store}: {len(findings)} finding(s)" if findings else f"{store}: no findings")
    raise typer.Exit(2 if findings else 0)


@app.command()
def show(
    path: Path,
    out: Annotated[Path | None, typer.Option(help="Contact sheet to write (PNG).")] = None,
    label: Annotated[Path | None, typer.Option(help="Label map to lay over an image.")] = None,
) -> None:
    """Print the geometry of an image, DICOM folder or store; draw a contact sheet with --out."""
    from data_tools.show import show as show_path

    typer.echo(show_path(path, out=out, label=label))
