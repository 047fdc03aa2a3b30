"""Submits batch scripts to SLURM and asks it about jobs. What a script says: `slurm_script.py`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import typer

from launch.command import typed_command
from launch.launch_config import LaunchConfig
from launch.slurm_script import LAUNCH, RECIPE, load_recipe, training_script
from launch.stages import check_trains
from stunet.config import to_yaml
from stunet.errors import ConfigError
from stunet.io.atomic import atomic_write_text

JOBS = "jobs.jsonl"  # beside the scripts: one line per submission


def launch_training(
    config: LaunchConfig, verb: str, recipe: str, values: Sequence[str], dry_run: bool
) -> None:
    """Write the script of a training into its run folder, submit it and print the job's number.

    Args:
        config: Where and how.
        verb: One of `stages.TRAINING`.
        recipe: A recipe file or the name of a shipped one.
        values: `key=value` for it.
        dry_run: Print the script and do nothing.
    """
    check_trains("slurm", verb)
    loaded = load_recipe(verb, recipe, values)
    script = training_script(config, verb, loaded)
    if dry_run:
        typer.echo(script, nl=False)
        return
    folder = Path(loaded.out) / LAUNCH
    write_recipe(folder, loaded)
    typer.echo(f"job {submit(script, folder / f'{verb}.sbatch')}, script and log in {folder}")


def write_recipe(folder: Path, recipe: object) -> None:
    """Keep the complete recipe as submitted: its file may change while the job waits."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / RECIPE, to_yaml(recipe))


def submit(script: str, path: Path, after: str | None = None, held: bool = False) -> str:
    """Write `script` to `path`, submit it and return the job's number.

    Args:
        script: Its text.
        path: In the `launch` folder of a run, where the submission is recorded, too.
        after: A job that must have ended well before; without that this one is cancelled.
        held: It waits for `scontrol release`.

    Raises:
        ConfigError: SLURM is not at hand or refuses the job.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, script)
    chained = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    waiting = ["--hold"] if held else []
    job = ask("sbatch", "--parsable", *waiting, *chained, str(path)).strip().partition(";")[0]
    line = {
        "job": job,
        "script": path.name,
        "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": typed_command(),
    }
    with (path.parent / JOBS).open("a") as file:
        file.write(json.dumps(line) + "\n")
    return job


def ask(*command: str) -> str:
    """Run one of SLURM's commands and return what it prints.

    Raises:
        ConfigError: It is not installed here, or fails.
    """
    if shutil.which(command[0]) is None:
        raise ConfigError(
            f"{command[0]}: not found; run this where SLURM's commands are, or look at the script"
            " with --dry-run"
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise ConfigError(f"{' '.join(command[:2])}: {said or f'exit code {done.returncode}'}")
    return done.stdout


def describe_job(job: str) -> dict[str, str]:
    """What `scontrol show job` says of a job, by key; empty once SLURM has forgotten it."""
    try:
        text = ask("scontrol", "show", "job", job, "--oneliner")
    except ConfigError as error:
        if "Invalid job id" in str(error):
            return {}
        raise
    return dict(re.findall(r"(?:^|\s)([A-Za-z:/]+)=(\S*)", text))
