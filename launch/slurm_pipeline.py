"""`launch slurm pipeline`: training, bundle, evaluation and release as a chain of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import typer

from launch.launch_config import LaunchConfig
from launch.pipeline_stages import PIPELINE, open_stage
from launch.slurm import ask, submit, write_recipe
from launch.slurm_script import LAUNCH, load_recipe, stage_script, training_script
from stunet.errors import ConfigError
from stunet.io.remote import is_url

BUNDLE, SCORES = "bundle", "transfer"  # below the run folder


def launch_pipeline(
    config: LaunchConfig,
    recipe: str,
    values: Sequence[str],
    datasets: Sequence[str],
    publish_to: str,
    dry_run: bool,
) -> None:
    """Submit pretrain, export, transfer and publish; each starts when the one before ended well.

    Args:
        config: Of the training; the other stages take one of its nodes and one of its GPUs.
        recipe: Of the training.
        values: `key=value` for it.
        datasets: Raw data sets to evaluate on; none: no transfer.
        publish_to: Where the bundle goes; empty: nowhere.
        dry_run: Print the scripts and do nothing.
    """
    if config.array:
        raise ConfigError("launch slurm pipeline: takes no array; submit one pipeline for each")
    loaded = load_recipe("pretrain", recipe, values)
    run = Path(loaded.out)
    if (run / BUNDLE).exists():
        raise ConfigError(f"pipeline {run}: {run / BUNDLE} is there already; remove it first")
    scripts = {"pretrain": training_script(config, "pretrain", loaded)}
    single = replace(config, nodes=1, gpus=min(config.gpus, 1), processes=1, exclusive=False)
    for stage, arguments in _later_stages(run, single, datasets, publish_to).items():
        scripts[stage] = stage_script(single, stage, run, arguments)
    if dry_run:
        typer.echo("\n".join(scripts.values()), nl=False)
        return
    write_recipe(run / LAUNCH, loaded)
    jobs = _submit_chain(run, scripts)
    ask("scontrol", "release", jobs[0])
    typer.echo(f"outcomes in {run / PIPELINE}")


def _submit_chain(run: Path, scripts: Mapping[str, str]) -> list[str]:
    """Submit all stages, or none; the first is held, so that it cannot end before that is known."""
    jobs: list[str] = []
    try:
        for stage, script in scripts.items():
            path = run / LAUNCH / f"{stage}.sbatch"
            jobs.append(submit(script, path, after=jobs[-1] if jobs else None, held=not jobs))
            open_stage(run, stage, jobs[-1])
            typer.echo(f"{stage}: job {jobs[-1]}")
    except ConfigError:
        if jobs:
            ask("scancel", *jobs)
        raise
    return jobs


def _later_stages(
    run: Path, config: LaunchConfig, datasets: Sequence[str], publish_to: str
) -> dict[str, list[str]]:
    bundle = str(run / BUNDLE)
    stages = {"export": ["export", str(run), bundle]}
    if datasets:
        device = "cuda" if config.gpus else "cpu"
        raw = [str(Path(place).absolute()) for place in datasets]
        out = str(run / SCORES)
        stages["transfer"] = ["transfer", bundle, *raw, "--out", out, "--device", device]
    if publish_to:
        place = publish_to if is_url(publish_to) else str(Path(publish_to).absolute())
        stages["publish"] = ["publish", bundle, place]
    return stages
