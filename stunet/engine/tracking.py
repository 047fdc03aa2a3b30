"""The record of a run: `metrics.jsonl` is the truth, wandb a mirror that is off unless asked for.

One JSON object per line with `step` and numbers; what is not finite is written as null. Only one
process of a run may write. Not here: what is measured, and when.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stunet.engine.json_lines import JsonLines

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
        step: Where the run continues, see `JsonLines`.
    """

    def __init__(self, run: Path, config: TrackingConfig, step: int) -> None:
        self._lines = JsonLines(run / METRICS, step)
        mode = config.wandb
        self._mirror = None if mode == "off" else _WandbMirror(run, config, mode)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line; it has left this process when the call returns."""
        self._lines.write({"step": step, **{key: _finite(v) for key, v in values.items()}})
        if self._mirror is not None:
            self._mirror.log(step, values)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.__exit__(*error)
        if self._mirror is not None:
            self._mirror.close()


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
