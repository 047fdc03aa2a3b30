"""Why a run was interrupted, what that cost, and how often: the `history` in `run.json`.

Whoever ends or restarts a run leaves a line in `stopped.txt`; the next start reads it. Imports no
torch: batch scripts call it in their last seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stunet.engine.json_lines import read_rows
from stunet.engine.tracking import METRICS
from stunet.io.atomic import atomic_write_text

STOPPED = "stopped.txt"
UNSAID = {
    "preempted": "asked to stop",
    "failed": "failed",
    "running": "ended without a word: killed, or its node was lost",
}


def say_why(run: Path, reason: str) -> None:
    """Leave the reason for the next start."""
    run.mkdir(parents=True, exist_ok=True)
    atomic_write_text(run / STOPPED, reason + "\n")


def history(run: Path, before: Mapping[str, Any], step: int) -> list[dict[str, Any]]:
    """What interrupted the run up to this start: a row per start after the first, the newest last.

    Args:
        run: The run folder; the reason that was left there is taken away.
        before: What `run.json` said until now; empty: it was not there.
        step: Where the run continues.
    """
    note = run / STOPPED
    if not before and not note.exists():
        return []
    state = before.get("state", "running")
    reason = note.read_text().strip() if note.exists() else UNSAID.get(state, state)
    note.unlink(missing_ok=True)
    rows = read_rows(run / METRICS) if (run / METRICS).exists() else []
    logged = max((row["step"] for row in rows), default=0)
    row = {
        "reason": reason,
        "step": step,
        "lost_steps": max(0, logged - step),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return [*before.get("history", []), row]
