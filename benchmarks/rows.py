"""A measured row, how sides take turns, and the command line that all benchmarks share.

The sides take turns round by round, so that whatever slows the machine slows all of them; medians
are compared. CPU time counts, since wall time on a shared machine measures its other users.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from benchmarks.worker import ROOT, Measured, Round, Worker

OURS = "ours"
UNWARMED_MS = 10_000  # a first turn that takes longer counts
ENOUGH_MS = 60_000  # no side works for longer, so that all of it takes minutes


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        work: What both did.
        ours, peer: Medians in `unit`.
        peer_name: Whom we compared with; `limit` where `peer` is a value not to be exceeded.
        unit: Of both.
        ratio: How many times better ours is.
        goal: The ratio to reach, or None where none was set.
        where: `cpu` or the GPU's name.
        note: What else was seen: agreement, conditions.
    """

    work: str
    ours: float
    peer: float
    peer_name: str
    unit: str
    ratio: float
    goal: float | None
    where: str
    note: str = ""


@dataclass(frozen=True)
class Session:
    """What a benchmark works with.

    Attributes:
        rounds: Measured turns of each side.
        folder: Scratch space on a real disk.
        ours: A worker in our environment.
        peers: One in the peers' environment; None: rows that need it are left out.
    """

    rounds: int
    folder: Path
    ours: Worker
    peers: Worker | None

    def own(self, factory: str, **arguments: Any) -> Round:
        """Have our worker hold ready what `benchmarks/ours` makes; see `Worker.open`."""
        return self.ours.open(f"ours.{factory}", **arguments)

    def peer(self, factory: str, **arguments: Any) -> Round:
        """Have the peers' worker hold ready what `benchmarks/peers` makes."""
        assert self.peers is not None, "this row is for runs with --peers"
        return self.peers.open(f"peers.{factory}", **arguments)


Turns = Mapping[str, list[Measured]]
"""Side to what each of its turns took."""


def take_turns(sides: Mapping[str, Round], rounds: int) -> Turns:
    """Let all sides work in turn until each has had `rounds` turns or its time is up.

    The first turn warms up and does not count, unless it takes so long that nothing is gained by
    warming up.
    """
    turns: dict[str, list[Measured]] = {name: [] for name in sides}
    for name, side in sides.items():
        first = side()
        if first.cpu_ms > UNWARMED_MS:
            turns[name].append(first)
    for _ in range(rounds):
        for name, taken in turns.items():
            if len(taken) < rounds and sum(turn.cpu_ms for turn in taken) < ENOUGH_MS:
                taken.append(sides[name]())
    return turns


def row(
    work: str,
    turns: Turns,
    peer: str,
    goal: float | None = None,
    *,
    of: Callable[[Measured], float] = attrgetter("cpu_ms"),
    per: float = 1,
    unit: str = "CPU ms",
    where: str = "cpu",
    note: str = "",
) -> Row:
    """Compare the medians of ours and of a peer.

    Args:
        work: What was done.
        turns: From `take_turns`.
        peer: A side other than ours.
        goal: The ratio to reach.
        of: What to compare of each turn; less is better.
        per: Pieces of work in a turn, to give the time of one.
        unit: Of what `of` gives.
        where: See `Row`.
        note: See `Row`.
    """
    mine, theirs = (
        statistics.median(of(turn) for turn in turns[side]) / per for side in (OURS, peer)
    )
    return Row(work, mine, theirs, peer, unit, theirs / mine, goal, where, note)


def within(work: str, value: float, limit: float, unit: str, note: str = "") -> Row:
    """A row for a value that must not exceed a limit."""
    return Row(work, value, limit, "limit", unit, limit / value, 1.0, "cpu", note)


def main(measure: Callable[[Session], Iterator[Row]]) -> None:
    """Print each row as it is measured, and write all of them where `--json FILE` says."""
    parser = argparse.ArgumentParser(description="Run a benchmark.")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default 5)")
    parser.add_argument("--peers", help="python of the peers' environment (make .venv-peers)")
    arguments = parser.parse_args()
    (ROOT / "build").mkdir(exist_ok=True)
    rows = []
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="benchmark-", dir=ROOT / "build")
        session = Session(
            arguments.rounds,
            Path(stack.enter_context(folder)),
            stack.enter_context(Worker()),
            stack.enter_context(Worker(arguments.peers)) if arguments.peers else None,
        )
        for done in measure(session):
            rows.append(asdict(done))
            print(describe(done), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def describe(row: Row) -> str:
    """Return a row as a line for the terminal."""
    goal = "" if row.goal is None else f", goal {row.goal:g}x"
    note = f" ({row.note})" if row.note else ""
    return (
        f"{row.work}: {row.ours:.4g} {row.unit}, {row.peer_name} {row.peer:.4g}: "
        f"{row.ratio:.3g}x{goal}{note}"
    )
