"""What is known of each stage of a pipeline: `RUN/pipeline/STAGE.json`. Reads and writes it.

States: `submitted`, `requeued`, `done`, `failed`, `not run`. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from stunet.io.atomic import atomic_write_json

PIPELINE = "pipeline"
STAGES = ("pretrain", "export", "transfer", "publish")


@dataclass(frozen=True)
class Outcome:
    """How far a stage got.

    Attributes:
        state: See above.
        reason: Why, where it did not go well.
        job: Its number in SLURM.
    """

    state: str
    reason: str = ""
    job: str = ""


def open_stage(run: Path, stage: str, job: str) -> None:
    """Note that a stage was submitted; from now on `record` knows it."""
    (run / PIPELINE).mkdir(parents=True, exist_ok=True)
    _write(run, stage, Outcome("submitted", job=job))


def record(run: Path, stage: str, outcome: Outcome) -> None:
    """Note how a stage ended; after a failure, that those behind it will not run.

    Does nothing where the run is no part of a pipeline.
    """
    known = read_stages(run)
    if stage not in known:
        return
    _write(run, stage, Outcome(outcome.state, outcome.reason, known[stage].job))
    if outcome.state == "failed":
        for later in list(known)[list(known).index(stage) + 1 :]:
            _write(run, later, Outcome("not run", f"{stage} failed", known[later].job))


def read_stages(run: Path) -> dict[str, Outcome]:
    """The stages of a run's pipeline, in order; empty where it has none."""
    found = {}
    for stage in STAGES:
        file = run / PIPELINE / f"{stage}.json"
        if file.exists():
            values = json.loads(file.read_text())
            found[stage] = Outcome(values["state"], values["reason"], values["job"])
    return found


def _write(run: Path, stage: str, outcome: Outcome) -> None:
    updated = datetime.now(UTC).isoformat(timespec="seconds")
    values = {"stage": stage, **asdict(outcome), "updated": updated}
    atomic_write_json(run / PIPELINE / f"{stage}.json", values)
