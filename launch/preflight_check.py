"""The words of preflight: what a check says, the processes it is about, the machine it looks at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stunet.errors import StunetError


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: What was looked at.
        ok: Whether the run can start so; None: it does not apply or cannot be known from here.
        found: What was seen.
        advice: What to do; empty where there is nothing to do.
    """

    name: str
    ok: bool | None
    found: str
    advice: str = ""


@dataclass(frozen=True)
class WorldPlan:
    """The processes that are about to be started.

    Attributes:
        nodes: Machines.
        processes: Ranks on each of them.
        gpu_memory_bytes: Of one GPU; None: not known, or a run on CPUs.
        gpu_name: None with no `gpu_memory_bytes`: a run on CPUs.
        local: Whether the ranks run on this machine; else only what all nodes share is checked.
        port: Where the ranks meet; None: the launcher takes a free one.
    """

    nodes: int = 1
    processes: int = 1
    gpu_memory_bytes: int | None = None
    gpu_name: str | None = None
    local: bool = True
    port: int | None = None

    @property
    def world(self) -> int:
        """All ranks."""
        return self.nodes * self.processes

    @property
    def on_gpus(self) -> bool:
        """Whether the ranks compute on GPUs."""
        return self.gpu_name is not None or self.gpu_memory_bytes is not None


@dataclass(frozen=True)
class Surroundings:
    """Where the facts of a machine come from.

    Attributes:
        root: Below it lie `proc`, `sys` and `dev`.
        clock: The time of this machine in seconds since 1970.
    """

    root: Path = Path("/")
    clock: Callable[[], float] = time.time


THIS_MACHINE = Surroundings()


def refused(name: str, error: StunetError) -> Check:
    """A failed check from an error of ours, whose message ends in '; what to do'."""
    found, _, advice = str(error).rpartition("; ")
    return Check(name, False, found or advice, advice if found else "")


def elsewhere(name: str) -> Check:
    """A check of the ranks' machine, when that is not this one."""
    return Check(name, None, "the ranks run on other machines; run 'stunet doctor' on one of them")


def gibibytes(count: float) -> str:
    """Bytes for people.

    >>> gibibytes(3 * 2**29), gibibytes(5 * 2**20)
    ('1.5 GiB', '5.0 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
