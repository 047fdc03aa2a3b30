"""What runs stand where: read from their folders alone, without torch, in a moment.

Reads `run.json`, `config.yaml`, the end of `metrics.jsonl` and the notes of a pipeline. Not here:
curves and the page of one run (`runs_plot`, `runs_page`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from launch.pipeline_stages import PIPELINE, Outcome, read_stages
from stunet.engine.tracking import METRICS

RUN, CONFIG = (
    "run.json",
    "config.yaml",
)  # written by `stunet.training.run_folder`, which imports torch
JOBS = "launch/jobs.jsonl"  # written by `launch.slurm` for what waits in the queue
STORES_AND_BUNDLES = ("manifest.jsonl", "SHA256SUMS")  # may hold 100,000 folders, and no run
TAIL_BYTES = 1 << 18  # some hundred lines of metrics, the last validation among them
RECENT = 10  # lines of metrics that throughput is averaged over
SILENT_INTERVALS = 3  # so many intervals of logging without a line are no coincidence

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where it is built


@dataclass(frozen=True)
class RunSummary:
    """One run in a line; None where it is not known.

    Attributes:
        folder: Of the run.
        state: `queued`, `running`, `stale` (says it is running, but has written nothing for long),
            `preempted`, `failed` or `finished`.
        step: Reached; of one that was preempted or failed, where it can be continued.
        total_steps: Where it ends.
        samples_per_s: Patches per second over all ranks, lately.
        eta_s: Seconds to the end at that pace; only of a running one.
        restarts: How often it was continued.
        loss: The last one.
        dice: Mean Dice of the last validation.
        note: What limits or stopped it, in a sentence; empty if there is nothing to say.
        stages: Of its pipeline, by name.
    """

    folder: Path
    state: str
    step: int
    total_steps: int | None
    samples_per_s: float | None
    eta_s: float | None
    restarts: int
    loss: float | None
    dice: float | None
    note: str
    stages: Mapping[str, Outcome]


def find_runs(folder: Path) -> Iterator[Path]:
    """Run folders at or below `folder`, sorted; does not look into runs, stores and bundles."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # not ours to read
        return
    folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    files = {entry.name for entry in entries} - set(folders)
    if RUN in files:
        yield folder
        return
    if files.intersection(STORES_AND_BUNDLES):
        return
    visible = (name for name in folders if not name.startswith("."))
    below = [run for name in visible for run in find_runs(folder / name)]
    if not below and (PIPELINE in folders or (folder / JOBS).is_file()):
        yield folder  # submitted, not yet started
    yield from below


def summarise(run: Path, now: float, stale_s: float) -> RunSummary:
    """What is known of a run.

    Args:
        run: Its folder.
        now: Seconds since 1970.
        stale_s: A run that has written nothing for so long, and for several of its intervals of
            logging, counts as dead.
    """
    record = read_run(run) or {}
    config = read_config(run)
    rows = _tail(run / METRICS)
    pace = _mean([row["samples_per_s"] for row in rows[-RECENT:] if _number(row, "samples_per_s")])
    state = str(record.get("state", "queued"))
    if state == "running" and now - heartbeat(run) > max(stale_s, _patience_s(config, pace)):
        state = "stale"
    last = max((int(row["step"]) for row in rows), default=0)
    saved = int(record.get("step", 0))
    step = saved if state in ("preempted", "failed") else max(last, saved)
    total = _at(config, "optim", "total_steps")
    eta = None
    if state == "running" and pace and total is not None:
        eta = max(0, total - step) * _at(config, "global_batch") / pace
    stages = read_stages(run)
    return RunSummary(
        folder=run,
        state=state,
        step=step,
        total_steps=total,
        samples_per_s=pace,
        eta_s=eta,
        restarts=int(record.get("restarts", 0)),
        loss=_last(rows, "loss"),
        dice=_last(rows, "val_dice"),
        note=_note(record, rows, stages, state),
        stages=stages,
    )


def read_run(run: Path) -> dict[str, Any] | None:
    """`run.json`, None where there is none that can be read."""
    try:
        record: dict[str, Any] = json.loads((run / RUN).read_bytes())
    except (OSError, ValueError):
        return None
    return record


def read_config(run: Path) -> dict[str, Any]:
    """`config.yaml` as plain values, empty where there is none that can be read."""
    try:
        config = yaml.load((run / CONFIG).read_text(), _Loader)  # both loaders are safe ones
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def heartbeat(run: Path) -> float:
    """When the run last wrote something, in seconds since 1970; 0 if never."""
    times = [file.stat().st_mtime for name in (RUN, METRICS) if (file := run / name).is_file()]
    return max(times, default=0.0)


def parse_rows(data: bytes) -> list[dict[str, Any]]:
    """Whole lines of metrics; one that is cut short, at either end, is passed over."""
    rows = []
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def _tail(file: Path) -> list[dict[str, Any]]:
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL_BYTES))
            return parse_rows(stream.read())
    except OSError:
        return []


def _note(
    record: Mapping[str, Any],
    rows: list[dict[str, Any]],
    stages: Mapping[str, Outcome],
    state: str,
) -> str:
    """The most telling sentence: a stage that failed, why it stopped, what limits it."""
    for name, outcome in stages.items():
        if outcome.state == "failed":
            return f"{name} failed: {outcome.reason}"
    history = record.get("history") or []
    if state in ("preempted", "failed"):
        reason = record.get("reason") or (history[-1].get("reason") if history else "")
        return str(reason or "")
    limits = [row["limit"] for row in rows if row.get("limit")]
    return str(record.get("limit") or (limits[-1] if limits else ""))


def _patience_s(config: Mapping[str, Any], pace: float | None) -> float:
    """How long several intervals of logging take at the pace so far."""
    every, batch = _at(config, "loop", "log_every"), _at(config, "global_batch")
    return SILENT_INTERVALS * every * batch / pace if pace and every and batch else 0.0


def _at(config: Mapping[str, Any], *keys: str) -> Any:
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _number(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key)
    return isinstance(value, int | float) and math.isfinite(value)


def _last(rows: list[dict[str, Any]], key: str) -> float | None:
    return next((float(row[key]) for row in reversed(rows) if _number(row, key)), None)


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None
