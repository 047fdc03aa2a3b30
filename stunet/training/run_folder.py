"""What a run folder says about itself: `config.yaml`, `dataset.json`, `network.json`, `run.json`.

Rank 0 alone calls these. Checkpoints and metrics belong to `stunet.engine`.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import socket
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stunet import __version__
from stunet.config import differences, load_config, to_yaml
from stunet.errors import CheckpointError
from stunet.io.atomic import atomic_write_json, atomic_write_text
from stunet.io.manifest import DATASET, DatasetInfo
from stunet.models.spec import ModelConfig
from stunet.training.interruptions import history
from stunet.training.recipe import Recipe, TrainingConfig, without_logistics

CONFIG = "config.yaml"
NETWORK = "network.json"
RUN = "run.json"
VERSIONED = ("torch", "deepspeed", "numpy", "zarr", "numcodecs")


def claim(
    run: Path,
    config: TrainingConfig,
    info: DatasetInfo,
    content: list[str],
    network: ModelConfig,
) -> None:
    """Make `run` the folder of this configuration: a new one, or one of an equal run to continue.

    Args:
        run: The run folder.
        config: The complete configuration.
        info: What the data sets share.
        content: A SHA-256 of the cases of each data set.
        network: What is trained.

    Raises:
        CheckpointError: The folder belongs to a run that would come out differently.
    """
    run.mkdir(parents=True, exist_ok=True)
    check_same_run(run, config, info, content)
    atomic_write_json(run / DATASET, _dataset(info, content))
    atomic_write_json(run / NETWORK, asdict(network))
    atomic_write_text(run / CONFIG, to_yaml(config))


def check_same_run(
    run: Path, config: TrainingConfig, info: DatasetInfo, content: list[str]
) -> None:
    """See whether a run that is in the folder already can be continued so; arguments as `claim`.

    Raises:
        CheckpointError: It would come out differently.
    """
    if not (run / CONFIG).exists():
        return
    before = load_config(type(config), run / CONFIG)
    changes = differences(without_logistics(before), without_logistics(config))
    if changes:
        raise CheckpointError(
            f"run {run}: was started with other values ({'; '.join(changes)}); "
            "name another out=..., or use the values it was started with"
        )
    # As text, since the order of regions is that of the outputs.
    if json.dumps(read_json(run, DATASET)) != json.dumps(_dataset(info, content)):
        places = ", ".join(share.path for share in config.shares)
        raise CheckpointError(
            f"run {run}: was started on other data than {places}; name another out=..."
        )


def write_status(run: Path, state: str, facts: dict[str, Any]) -> None:
    """Record in `run.json` where the run stands, and what runs it.

    Args:
        run: The run folder.
        state: `running`, `preempted`, `failed` or `finished`.
        facts: Further JSON values.
    """
    record = {
        "state": state,
        "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
        "host": socket.gethostname(),
        "command": shlex.join(["stunet", *sys.argv[1:]]),
        "commit": source_commit(),
        "versions": {"stunet": __version__, **{name: version(name) for name in VERSIONED}},
    }
    atomic_write_json(run / RUN, record)


def interruptions(run: Path, step: int) -> list[dict[str, Any]]:
    """The run's history up to this start, which continues at `step`."""
    return history(run, read_json(run, RUN) if (run / RUN).exists() else {}, step)


def config_hash(config: TrainingConfig, content: list[str]) -> str:
    """Identity of what a run computes: its configuration and the content of its data sets."""
    text = to_yaml(without_logistics(config)) + "".join(content)
    return hashlib.sha256(text.encode()).hexdigest()


def read_recipe(run: Path, schema: type[Recipe]) -> Recipe:
    """The complete recipe of a run.

    Raises:
        CheckpointError: `run` is not the folder of a run.
    """
    read_json(run, RUN)
    return load_config(schema, run / CONFIG)


def read_json(run: Path, name: str) -> dict[str, Any]:
    """One of the JSON files of a run folder.

    Raises:
        CheckpointError: It is not there, so this is not the folder of a run.
    """
    try:
        record: dict[str, Any] = json.loads((run / name).read_text())
    except (OSError, ValueError):
        raise CheckpointError(
            f"run {run}: has no readable {name}; give the folder of a training run"
        ) from None
    return record


def _dataset(info: DatasetInfo, content: list[str]) -> dict[str, Any]:
    return {**asdict(info), "content_sha256": content}


def source_commit() -> str | None:
    """The commit of the source tree, with `+changes` if it was edited; None if installed."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        asked = ["git", "-C", str(here), *arguments]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parents[1]:
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
