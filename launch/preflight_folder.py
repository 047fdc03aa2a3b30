"""Preflight of the run folder: can it be written, is there room, is it free, do clocks agree."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from launch.preflight_check import Check, Surroundings, gibibytes
from launch.runs import heartbeat, read_run
from stunet.engine.tracking import METRICS
from stunet.io.atomic import atomic_write_bytes
from stunet.training.recipe import TrainingConfig

SKEW_S = 5.0  # above the coarsest time stamps of file systems (2 s), below any heartbeat
ALIVE_S = 120.0  # a run on another machine whose metrics are younger is taken to be alive
PROBE = b"stunet preflight\n"


def check_run_folder(
    config: TrainingConfig, checkpoint: int | None, here: Surroundings
) -> list[Check]:
    """All that is asked of the run folder.

    Args:
        config: The run.
        checkpoint: Bytes of one checkpoint, None if that is not known.
        here: Gives the clock.
    """
    run = Path(config.out)
    try:
        with _made(run):
            checks = [_check_writing(run), _check_clock(run, here)]
            checks.append(_check_space(run, config, checkpoint))
    except OSError as error:
        found = f"{run} cannot be made or written: {error.strerror or error}"
        checks = [Check("run folder", False, found, "name another out=..., or mend its rights")]
    return [*checks, _check_free(run, here)]


@contextmanager
def _made(run: Path) -> Iterator[None]:
    """Have the folder inside the block; what had to be made for it is gone afterwards."""
    missing = [folder for folder in (run, *run.parents) if not folder.exists()]
    run.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # another process has put something there
                folder.rmdir()


def _check_writing(run: Path) -> Check:
    """Write as checkpoints are written: to a temporary name, fsync, rename, fsync of the folder."""
    probe = run / f".preflight.{os.getpid()}"
    try:
        atomic_write_bytes(probe, PROBE)
        whole = probe.read_bytes() == PROBE
    finally:
        probe.unlink(missing_ok=True)
    if not whole:
        return Check(
            "run folder",
            False,
            f"{run} gives back other bytes than were written",
            "name another out=... on a sound file system",
        )
    return Check("run folder", True, f"{run.absolute()} takes files, fsync and rename")


def _check_clock(run: Path, here: Surroundings) -> Check:
    """Compare the time stamp that the file system gives with this machine's clock."""
    probe = run / f".preflight.{os.getpid()}"
    before = here.clock()
    try:
        probe.write_bytes(PROBE)
        stamp = probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
    after = here.clock()
    skew = stamp - min(max(stamp, before), after)
    if abs(skew) > SKEW_S:
        way = "ahead of" if skew > 0 else "behind"
        return Check(
            "clock",
            False,
            f"the file system's clock is {abs(skew):.0f} s {way} this machine's",
            "set the clocks (NTP, chrony): whether a run is alive is told by the age of its files",
        )
    return Check("clock", True, f"differs from the file system's by {abs(skew):.1f} s")


def _check_space(run: Path, config: TrainingConfig, checkpoint: int | None) -> Check:
    """Room for the checkpoints that stay and the one being written, less those that are there."""
    free = shutil.disk_usage(run).free
    if checkpoint is None:
        return Check("disk", None, f"{gibibytes(free)} free; the size of a checkpoint is not known")
    there = sum(file.stat().st_size for file in run.glob("checkpoints/step_*/*.safetensors"))
    keep = config.loop.keep_checkpoints
    needed = max(0, (keep + 1) * checkpoint - there)
    found = f"{gibibytes(free)} free, {gibibytes(needed)} needed for {keep} + 1 checkpoints"
    if needed > free:
        return Check(
            "disk", False, found, "free space, lower loop.keep_checkpoints or name another out=..."
        )
    return Check("disk", True, f"{found} (a quota is not seen)")


def _check_free(run: Path, here: Surroundings) -> Check:
    """Whether a process, here or on another machine, is training in the folder."""
    here_pids = _writers(run / METRICS)
    if here_pids:
        pids = ", ".join(map(str, here_pids))
        return Check(
            "in use",
            False,
            f"process {pids} of this machine is training in {run}",
            "wait for it or end it, or name another out=...",
        )
    told = read_run(run)
    if told is None:
        return Check("in use", True, "no run in it")
    last = heartbeat(run)
    away = told.get("host") != socket.gethostname()  # of this machine we have seen all processes
    if told.get("state") == "running" and away and here.clock() - last < ALIVE_S:
        when = datetime.fromtimestamp(last, UTC).strftime("%H:%M:%S UTC")
        return Check(
            "in use",
            False,
            f"{run} is said to be running on {told.get('host')} and was last written at {when}",
            f"if no job uses it, wait until {ALIVE_S:.0f} s have passed; else name another out=...",
        )
    return Check("in use", True, f"holds a run that is {told.get('state')}; it will be continued")


def _writers(file: Path) -> list[int]:
    """Processes of this machine that hold a file open, as far as we may see them."""
    try:
        wanted = (file.stat().st_dev, file.stat().st_ino)
    except OSError:
        return []
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            for handle in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    seen = handle.stat()
                    if (seen.st_dev, seen.st_ino) == wanted and int(folder.name) != os.getpid():
                        found.append(int(folder.name))
                        break
    return sorted(found)
