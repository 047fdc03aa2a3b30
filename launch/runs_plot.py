"""Tables and curves of runs for a terminal, in plain unicode: a Braille cell holds 2 x 4 dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.runs import RunSummary

Points = Sequence[tuple[float, float]]

# Dots of a Braille cell by column and row, top to bottom. Source: Unicode chapter 21.1.
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
BLANK = 0x2800
UNITS_S = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def plot(title: str, points: Points, width: int = 64, height: int = 8) -> str:
    """One curve with its range.

    Args:
        title: Above it.
        points: (x, y), x rising, all finite.
        width: Columns of the curve itself.
        height: Lines.
    """
    if not points:
        return f"{title}: nothing yet"
    first, low, last, high = _corners(points)
    cells = [[BLANK] * width for _ in range(height)]
    columns, rows = 2 * width - 1, 4 * height - 1

    def place(x: float, y: float) -> tuple[int, int]:
        return (
            round((x - first) / (last - first or 1) * columns),
            round((high - y) / (high - low or 1) * rows),
        )

    before = place(*points[0])
    for point in points:
        after = place(*point)
        for column, row in _line(before, after):
            cells[row // 4][column // 2] |= DOTS[column % 2][row % 4]
        before = after
    labels = {0: f"{high:.4g}", height - 1: f"{low:.4g}"}
    margin = max(map(len, labels.values()))
    lines = [f"{title}: {points[-1][1]:.4g} at step {points[-1][0]:.0f}"]
    for number, line in enumerate(cells):
        lines.append(f"{labels.get(number, ''):>{margin}} │{''.join(map(chr, line))}")
    lines.append(f"{'':>{margin}} └{'─' * width}")
    lines.append(f"{'':>{margin}}  {first:<{width // 2}.0f}{last:>{width - width // 2}.0f}")
    return "\n".join(lines)


def table(runs: Sequence[RunSummary], below: Path) -> str:
    """One line per run, a second one where there is something to say.

    Args:
        runs: In the order to show.
        below: The folder that names are relative to.
    """
    head = ("run", "state", "step", "patches/s", "left", "restarts", "loss", "Dice")
    rows = [head, *(_cells(run, below) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    notes = ["", *(run_note(run) for run in runs)]
    lines = []
    for row, note in zip(rows, notes, strict=True):
        cells = (
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
        if note:
            lines.append(f"    {note}")
    return "\n".join(lines)


def run_note(run: RunSummary) -> str:
    """The second line of a run: its pipeline, then its sentence."""
    stages = ", ".join(f"{name} {outcome.state}" for name, outcome in run.stages.items())
    return "; ".join(part for part in (stages, run.note) if part)


def duration(seconds: float | None) -> str:
    """The two largest units.

    >>> duration(90061), duration(59), duration(3600), duration(None)
    ('1 d 1 h', '59 s', '1 h', '')
    """
    if seconds is None:
        return ""
    left, parts = round(seconds), []
    for size, unit in UNITS_S:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def _cells(run: RunSummary, below: Path) -> tuple[str, ...]:
    name = str(run.folder.relative_to(below)) if run.folder != below else str(run.folder)
    total = "" if run.total_steps is None else f"/{run.total_steps}"
    return (
        name,
        run.state,
        f"{run.step}{total}",
        number(run.samples_per_s, ".1f"),
        duration(run.eta_s),
        str(run.restarts),
        number(run.loss, ".3f"),
        number(run.dice, ".3f"),
    )


def number(value: float | None, form: str) -> str:
    """A number, or nothing where it is not known."""
    return "" if value is None else format(value, form)


def curve(rows: Sequence[Mapping[str, float | None]], key: str) -> list[tuple[float, float]]:
    """The points (step, value) of one quantity in the metrics; gaps are left out."""
    return [(float(row["step"] or 0), float(v)) for row in rows if (v := row.get(key)) is not None]


def _corners(points: Points) -> tuple[float, float, float, float]:
    steps, values = zip(*points, strict=True)
    return min(steps), min(values), max(steps), max(values)


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """All dots between two, both included."""
    (x0, y0), (x1, y1) = start, end
    count = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [
        (round(x0 + (x1 - x0) * i / count), round(y0 + (y1 - y0) * i / count))
        for i in range(count + 1)
    ]
