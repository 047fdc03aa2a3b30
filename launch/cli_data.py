"""Verbs about data: from a raw folder to a verified store, and pictures of either."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from launch.cli_config import Overrides

app = typer.Typer(no_args_is_help=True, help="Ingest, plan, prepare, verify and show data.")

Raw = Annotated[Path, typer.Argument(help="Raw data set of any layout, or a YAML file of several.")]
Recipe = Annotated[str | None, typer.Option(help="A recipe such as data/totalsegmentator.")]

PlanFrom = Annotated[
    str | None, typer.Option(help="A bundle whose plan to keep, to fine-tune it on these data.")
]


@app.command()
def ingest(
    raw: Raw,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    fold: Annotated[str, typer.Option(help="Fold of splits_final.json, or 'all'.")] = "0",
) -> None:
    """Recognise a raw data set and list what it holds; reads no image."""
    from dataclasses import asdict

    from data_tools.ingest import ingest as ingest_raw

    found = ingest_raw(raw, fold)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    splits = Counter(case.split or "not declared" for case in found.cases)
    typer.echo(
        f"{found.name}: {found.layout} layout, {len(found.cases)} cases, licence {found.licence}"
    )
    typer.echo(f"channels: {', '.join(found.channel_names)}")
    typer.echo(f"splits: {', '.join(f'{name} {count}' for name, count in splits.items())}")
    ignored = [] if found.ignore_label is None else [f"{found.ignore_label} ignored"]
    labels = [f"{value} {name}" for name, value in found.labels.items()]
    typer.echo(f"labels: {', '.join(labels + ignored)}")
    for name, values in found.regions.items():
        typer.echo(f"region {name}: {', '.join(map(str, values))}")
    partly = Counter(case.annotated for case in found.cases if case.annotated is not None)
    for names, cases in partly.items():
        typer.echo(f"annotated in {cases} cases only: {', '.join(names) or 'nothing'}")


@app.command()
def phantom(out: Path, overrides: Overrides = None) -> None:
    """Make a deterministic CT-like labelled data set."""
    from data_tools.phantom import PhantomConfig, write_phantom
    from stunet.config import load_config

    config = load_config(PhantomConfig, None, overrides or ())
    typer.echo(f"{write_phantom(out, config)}: {config.cases} cases, {config.classes} structures")


@app.command()
def plan(
    raw: Raw, recipe: Recipe = None, overrides: Overrides = None, plan_from: PlanFrom = None
) -> None:
    """Print the fingerprint of a raw data set and what preparation would do with it."""
    from data_tools.fingerprint import fingerprint
    from data_tools.ingest import ingest as ingest_raw
    from data_tools.plan import describe
    from data_tools.plan import plan as make_plan
    from data_tools.plan_from import bundle_plan
    from data_tools.prepare import PrepareConfig
    from data_tools.splits import assign_splits
    from stunet.config import load_config

    config = load_config(PrepareConfig, recipe, overrides or ())
    seen = fingerprint(assign_splits(ingest_raw(raw, config.fold), config.holdout))
    source = None if plan_from is None else bundle_plan(plan_from)
    typer.echo(describe(make_plan(seen, config.plan, source), seen))


@app.command()
def prepare(
    raw: Raw,
    out: Path,
    recipe: Recipe = None,
    overrides: Overrides = None,
    plan_from: PlanFrom = None,
) -> None:
    """Resample every case and write a sharded zarr v3 store; the same command continues."""
    from data_tools.ingest import ingest as ingest_raw
    from data_tools.plan_from import bundle_plan
    from data_tools.prepare import PrepareConfig
    from data_tools.prepare import prepare as prepare_store
    from launch.progress import case_progress
    from stunet.config import load_config

    config = load_config(PrepareConfig, recipe, overrides or ())
    with case_progress("prepare") as advance:
        found = ingest_raw(raw, config.fold)
        source = None if plan_from is None else bundle_plan(plan_from)
        store = prepare_store(found, out, config, advance, typer.echo, source)
    typer.echo(f"store {store}")


@app.command()
def align(raw: Raw, out: Path) -> None:
    """Resample each case's channels onto the grid of its first one, by world coordinates."""
    from data_tools.align import align as align_channels
    from data_tools.ingest import ingest as ingest_raw
    from launch.progress import case_progress

    with case_progress("align") as advance:
        typer.echo(f"aligned {align_channels(ingest_raw(raw, 'all'), out, advance)}")


@app.command()
def shard(store: str, out: Path, overrides: Overrides = None) -> None:
    """Write the volumes of a store into tars, for webdataset and streaming; can be continued."""
    from data_tools.shard import ShardConfig
    from data_tools.shard import shard as shard_store
    from launch.progress import case_progress
    from stunet.config import load_config

    config = load_config(ShardConfig, None, overrides or ())
    with case_progress("shard") as advance:
        typer.echo(f"tars {shard_store(store, out, config, advance)}")


@app.command()
def copy(
    store: Annotated[str, typer.Argument(help="Folder or URL of a store.")],
    destination: Annotated[str, typer.Argument(help="Folder or URL, e.g. s3://bucket/name.")],
    overrides: Overrides = None,
) -> None:
    """Copy a store to or from an object store, checksums compared; the same command continues."""
    from data_tools.copy_store import copy_store
    from launch.progress import case_progress
    from stunet.config import load_config
    from stunet.io.remote import StoreOptions

    options = load_config(StoreOptions, None, overrides or ())
    with case_progress("copy") as advance:
        report = copy_store(store, destination, options, advance)
    typer.echo(
        f"{report.copied} files copied ({report.copied_bytes / 1e6:.1f} MB),"
        f" {report.found} were there"
    )


@app.command()
def verify(
    stores: Annotated[list[Path], typer.Argument(help="One store, or several.")],
    audit: Annotated[bool, typer.Option("--audit", help="Audit the labels too.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the audit's report.")] = Path("audit"),
) -> None:
    """Read everything in a store and name what is damaged or, with --audit, doubtful."""
    from data_tools.verify import verify as verify_store

    bad = 0
    for store in stores:
        findings = verify_store(store)
        for finding in findings:
            typer.echo(str(finding))
        typer.echo(f"{store}: {len(findings)} finding(s)" if findings else f"{store}: no findings")
        bad += len(findings)
    if audit and not bad:  # labels that cannot be read cannot be judged
        bad = _audit(stores, out)
    raise typer.Exit(2 if bad else 0)


def _audit(stores: list[Path], out: Path) -> int:
    """Audit, write the report, and return the number of severe findings."""
    from data_tools.audit import audit
    from data_tools.audit_report import write_report
    from launch.progress import case_progress

    with case_progress("audit") as advance:
        result = audit(stores, advance)
    for finding in result.findings:
        typer.echo(str(finding))
    page = write_report(result, out)
    typer.echo(f"{page}: {len(result.findings)} finding(s), {result.severe} of them severe")
    return result.severe


@app.command()
def show(
    path: Path,
    out: Annotated[Path | None, typer.Option(help="Contact sheet to write (PNG).")] = None,
    label: Annotated[Path | None, typer.Option(help="Label map to lay over an image.")] = None,
) -> None:
    """Print the geometry of an image, DICOM folder or store; draw a contact sheet with --out."""
    from data_tools.show import show as show_path

    typer.echo(show_path(path, out=out, label=label))
