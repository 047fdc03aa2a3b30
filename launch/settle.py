"""The last thing a batch script does: say how a job ended, and whether it should run again.

Runs on the node, often within the seconds that the system leaves; hence imports no torch.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

from launch.pipeline_stages import Outcome, record
from stunet.errors import Preempted
from stunet.io.atomic import atomic_write_json
from stunet.training.interruptions import say_why

AGAIN = Preempted.exit_code
FAILURES = "failures.json"
USER_ERROR, HUNG = 2, 70  # what `stunet` and the watchdog exit with
ASKED = {"USR1": "USR1: time nearly up, or a user asked", "TERM": "SIGTERM from the system"}


def settle(
    run: Path, code: int, stage: str, log: Path, asked: str = "", max_failures: int = 0
) -> int:
    """Record how a job ended and return 0, `AGAIN` (requeue it) or the code to fail with.

    A job that saved itself runs again, however often. One that crashed does while crashes without
    a new checkpoint between them are at most `max_failures`. A user error never does.

    Args:
        run: The run folder.
        code: Exit code of the work, 128 + N for signal N.
        stage: `pretrain`, say.
        log: The job's output, for what it said last.
        asked: The signal that the batch script was sent.
        max_failures: 0 for work that cannot be continued.
    """
    if code == 0:
        record(run, stage, Outcome("done"))
        return 0
    reason = _reason(code, asked)
    said = _last_words(log)
    again = code == AGAIN or (code != USER_ERROR and _may_fail_again(run, max_failures))
    if again:
        say_why(run, reason)
        record(run, stage, Outcome("requeued", reason))
        print(f"stunet: {reason}; the run can go on from its last checkpoint", flush=True)
        return AGAIN
    record(run, stage, Outcome("failed", said or reason))
    if max_failures and code != USER_ERROR:
        print(
            f"stunet: {reason}, more than {max_failures} times without a new checkpoint; look into"
            f" {log}, mend it and submit again",
            flush=True,
        )
    return code


def _reason(code: int, asked: str) -> str:
    if code == AGAIN:
        return ASKED.get(asked, "asked to stop")
    if code == HUNG:
        return "a rank hung"
    if code > 128:
        try:
            return f"{signal.Signals(code - 128).name} killed a rank"
        except ValueError:
            pass  # no signal of this system: an exit code like any other
    return f"a rank failed with exit code {code}"


def _may_fail_again(run: Path, max_failures: int) -> bool:
    """Count a failure; whether it is one of the first `max_failures` at this checkpoint."""
    if max_failures == 0:
        return False
    file = run / "launch" / FAILURES
    newest = max((p.parent.name for p in run.glob("checkpoints/step_*/COMPLETE")), default="")
    before = json.loads(file.read_text()) if file.exists() else {}
    count = before["count"] + 1 if before.get("checkpoint") == newest else 1
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(file, {"checkpoint": newest, "count": count})
    return bool(count <= max_failures)


def _last_words(log: Path) -> str:
    """The last line in which the work itself said what is wrong."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    said = [line.removeprefix("stunet: ") for line in lines if line.startswith("stunet: ")]
    return said[-1] if said else ""
