"""The page of one run: `report.html` in its folder, self-contained, for a browser or a phone."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from launch.runs import parse_rows, read_config, read_run, summarise
from launch.runs_plot import Points, curve, duration, plot
from stunet import __version__
from stunet.config import find_recipe, read_recipe
from stunet.engine.tracking import METRICS
from stunet.errors import ConfigError, DataError
from stunet.io.atomic import atomic_write_text
from stunet.pages import page_templates

REPORT = "report.html"
BUCKETS = 240  # points drawn are two per bucket: as many as a phone has pixels
TICKS = 4
CURVES = (
    ("loss", "Loss", ""),
    ("val_dice", "Dice on held-out cases", ""),
    ("lr", "Learning rate", ""),
    ("samples_per_s", "Throughput", "patches per second"),
)


@dataclass(frozen=True)
class Chart:
    """A curve ready to draw; positions in percent of the drawing, y downwards.

    Attributes:
        title, unit: Of the quantity.
        last: Its last value, written out.
        path: Points of an SVG polyline.
        ticks: (label, position) of horizontal lines.
        steps: Labels of both ends of the x axis.
        marks: Positions of restarts.
    """

    title: str
    unit: str
    last: str
    path: str
    ticks: list[tuple[str, float]]
    steps: tuple[str, str]
    marks: list[float]


def show(run: Path, stale_s: float) -> tuple[list[str], Path]:
    """Draw a run's curves for the terminal and write its page.

    Returns:
        Paragraphs for the terminal, and the page.

    Raises:
        DataError: `run` is not the folder of a run, or the page cannot be written.
    """
    record = read_run(run)
    if record is None:
        raise DataError(
            f"run {run}: has no readable run.json; 'stunet runs' lists the runs below a folder"
        )
    metrics = run / METRICS
    rows = parse_rows(metrics.read_bytes()) if metrics.is_file() else []
    plots = [plot(title, points) for key, title, _ in CURVES if (points := curve(rows, key))]
    try:
        atomic_write_text(run / REPORT, _page(run, record, rows, stale_s))
    except OSError as error:
        raise DataError(
            f"{run / REPORT}: {error.strerror}; mend the folder's rights or free space"
        ) from error
    return plots, run / REPORT


def chart(title: str, unit: str, points: Points, restarts: Sequence[int]) -> Chart:
    """Lay out one curve."""
    drawn = thin(points)
    steps = [x for x, _ in points]
    ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points))
    first, last, low, high = steps[0], steps[-1], ticks[0], ticks[-1]

    def x_of(step: float) -> float:
        return 100 * (step - first) / (last - first or 1)

    def y_of(value: float) -> float:
        return 100 * (high - value) / (high - low)

    return Chart(
        title,
        unit,
        f"{points[-1][1]:.4g}",
        " ".join(f"{x_of(x):.2f},{y_of(y):.2f}" for x, y in drawn),
        [(f"{tick:.6g}", y_of(tick)) for tick in ticks],
        (f"{first:,.0f}", f"{last:,.0f}"),
        [x_of(step) for step in restarts if first <= step <= last],
    )


def thin(points: Points) -> Points:
    """At most two points per bucket, its lowest and highest: no spike is lost."""
    if len(points) <= 2 * BUCKETS:
        return points
    size = math.ceil(len(points) / BUCKETS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        ends = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def nice_ticks(low: float, high: float) -> list[float]:
    """Round values at even distances that enclose a range.

    >>> nice_ticks(0.13, 0.87)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(5, 5)
    [4.0, 6.0]
    """
    if high <= low:
        around = abs(low) / 5 or 1.0
        return [low - around, low + around]
    rough = (high - low) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def changes(command: str, config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What a run has that its recipe has not: (key, in the recipe, in the run).

    Args:
        command: As typed: `stunet pretrain RECIPE key=value ...`.
        config: The complete configuration of the run.
    """
    words = shlex.split(command)
    typed = {word.partition("=")[0] for word in words if "=" in word}
    names = [word for word in words if _is_recipe(word)]
    recipe = _flat(read_recipe(names[0])) if names else {}
    run = _flat(config)
    return [
        (key, str(recipe.get(key, "the default")), str(run.get(key)))
        for key in sorted(recipe.keys() | (typed & run.keys()))
        if not _equal(recipe.get(key), run.get(key))
    ]


def _page(
    run: Path, record: Mapping[str, Any], rows: Sequence[dict[str, Any]], stale_s: float
) -> str:
    history = record.get("history") or []
    restarts = [int(entry["step"]) for entry in history if "step" in entry]
    config = read_config(run)
    command = str(record.get("command") or "")
    places = ("launch", "finetune")  # the pages of this house share their look
    environment = page_templates(
        *(Path(str(resources.files(package) / "templates")) for package in places)
    )
    return environment.get_template("run.html").render(
        run=summarise(run, time.time(), stale_s),
        name=run.resolve().name,
        record=record,
        charts=[
            chart(title, unit, points, restarts)
            for key, title, unit in CURVES
            if (points := curve(rows, key))
        ],
        structures=_structures(rows),
        history=history,
        command=command,
        changes=changes(command, config) if command else [],
        config=yaml.safe_dump(dict(config), sort_keys=False, default_flow_style=None, width=80),
        duration=duration,
        day=datetime.now(UTC).date().isoformat(),
        versions={"stunet": __version__},
    )


def _structures(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Dice of each structure at the last validation, worst first."""
    prefix = "val_dice/"
    last: Mapping[str, Any] = next((row for row in reversed(rows) if "val_dice" in row), {})
    found = [
        (key.removeprefix(prefix), float(value))
        for key, value in last.items()
        if key.startswith(prefix) and value is not None
    ]
    return sorted(found, key=lambda entry: entry[1])


def _equal(recipe: Any, run: Any) -> bool:
    """Whether two values of YAML files mean the same; PyYAML takes `4e-3` for a word."""
    try:
        return recipe == run or float(recipe) == float(run)
    except (TypeError, ValueError):
        return False


def _is_recipe(word: str) -> bool:
    try:
        find_recipe(word)
    except (ConfigError, OSError):
        return False
    return "=" not in word


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
