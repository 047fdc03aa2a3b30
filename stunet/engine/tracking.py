"""The record of a run: `metrics.jsonl` is the truth, wandb a mirror that is off unless asked for.

One JSON object per line with `step` and numbers; what is not finite is written as null. Only one
process of a run may write. Not here: what is measured, and when.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stunet.io.atomic import atomic_write_text

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class TrackingConfig:
    """The mirror.

    Attributes:
        wandb: `off`, `offline` (files below the run folder, for `wandb sync`) or `online`.
        project: wandb's project.
        name: wandb's name of the run; None: the run folder's name.
    """

    wandb: Literal["off", "offline", "online"] = "off"
    project: str = "stunet"
    name: str | None = None


class Tracker:
    """Appends to a run's metrics; use it as a context manager.

    Args:
        run: The run folder.
        config: The mirror.
        step: Where the run continues. Lines of later steps were rolled back with the weights and
            are removed, as is a line that a crash cut short.
    """

    def __init__(self, run: Path, config: TrackingConfig, step: int) -> None:
        path = run / METRICS
        if path.exists():
            atomic_write_text(path, "".join(_lines_up_to(path, step)))
        self._file = path.open("a", encoding="utf-8")
        mode = config.wandb
        self._mirror = None if mode == "off" else _WandbMirror(run, config, mode)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line; it has left this process when the call returns."""
        row = {"step": step} | {key: _finite(value) for key, value in values.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._mirror is not None:
            self._mirror.log(step, values)

    def close(self) -> None:
        """Flush and close file and mirror."""
        self._file.close()
        if self._mirror is not None:
            self._mirror.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _lines_up_to(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):  # cut short; always the last one
            break
        if json.loads(line)["step"] <= step:
            kept.append(line)
    return kept


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class _WandbMirror:
    """A wandb run under an id that stays the same when our run is continued."""

    def __init__(
        self, run: Path, config: TrackingConfig, mode: Literal["offline", "online"]
    ) -> None:
        import wandb  # takes a second and is seldom wanted

        place = str(run.resolve())
        self._wandb = wandb
        self._run = wandb.init(
            project=config.project,
            name=config.name or run.resolve().name,
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            dir=run,
            mode=mode,
            resume="allow",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
        self._wandb.teardown()  # else its process may still be writing when ours is gone
