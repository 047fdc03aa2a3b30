"""`report.html` of a protocol: what the bundle is worth, for people, in one file.

What the numbers are is decided in `finetune.protocol_results`; how the page looks in `templates/`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from finetune.comparison import axis_limit
from finetune.page import percent, render
from finetune.protocol_results import Results
from finetune.protocol_trials import Protocol
from stunet.io.atomic import atomic_write_text

TICK = 0.1  # of Dice, between two lines of the chart
PART = 1.2  # percent of the chart's width that arms stand apart, so that intervals do not overlap


@dataclass(frozen=True)
class Curve:
    """An arm in the chart; all numbers are percent of its width, or of its height from the top.

    Attributes:
        arm: Which.
        path: Its means, as points of an SVG polyline.
        dots: x and y of the means.
        bars: x, upper and lower end of the intervals.
    """

    arm: str
    path: str
    dots: tuple[tuple[float, float], ...]
    bars: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Chart:
    """Mean Dice by number of training cases, these on a logarithmic scale.

    Attributes:
        curves: One per arm.
        ticks: Label and height of the lines across.
        marks: Label and x of the numbers of cases.
    """

    curves: tuple[Curve, ...]
    ticks: tuple[tuple[str, float], ...]
    marks: tuple[tuple[str, float], ...]


def write_protocol_report(
    path: Path, results: Results, protocol: Protocol, command: str = ""
) -> None:
    """Write the report; `command` is what the user typed, or nothing."""
    page = render(
        "protocol.html",
        results=results,
        protocol=protocol,
        command=command,
        chart=draw_chart(results, protocol.how.arms),
        limit=axis_limit(gain.tests["Dice"] for gain in results.gains),
    )
    atomic_write_text(path, page)


def draw_chart(results: Results, arms: tuple[str, ...]) -> Chart:
    """Where everything of the chart stands."""
    sizes = {point.cases: point.trained_on for point in results.points}
    first, last = math.log(min(sizes.values())), math.log(max(sizes.values()))

    def across(cases: float) -> float:
        return 50.0 if first == last else 8 + 84 * (math.log(cases) - first) / (last - first)

    dice = [point.means["Dice"] for point in results.points]
    ends = [end for d in dice for end in (d.mean, d.low, d.high) if math.isfinite(end)]
    lowest = math.floor(min(ends, default=0.0) / TICK)
    highest = max(math.ceil(max(ends, default=1.0) / TICK), lowest + 1)

    def down(value: float) -> float:
        return 100 * (highest - value / TICK) / (highest - lowest)

    curves = []
    for number, arm in enumerate(arms):
        shift = PART * (number - (len(arms) - 1) / 2)
        placed = [(across(p.trained_on) + shift, p.means["Dice"]) for p in results.of(arm)]
        dots = tuple((x, down(d.mean)) for x, d in placed if math.isfinite(d.mean))
        bars = tuple((x, down(d.high), down(d.low)) for x, d in placed if math.isfinite(d.low))
        curves.append(Curve(arm, " ".join(f"{x:.2f},{y:.2f}" for x, y in dots), dots, bars))
    ticks = ((percent(n * TICK, 0), down(n * TICK)) for n in range(lowest, highest + 1))
    marks = ((f"{size:g}", across(size)) for size in dict.fromkeys(sizes.values()))
    return Chart(tuple(curves), tuple(ticks), tuple(marks))
