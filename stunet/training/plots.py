"""Curves of a run, drawn from `metrics.jsonl` into `plots/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stunet.engine.tracking import METRICS

WIDTH_IN, HEIGHT_IN, DPI = 7.0, 4.0, 120


def draw_plots(run: Path) -> None:
    """Write `plots/loss.png` and, once there was a validation, `plots/dice.png`."""
    path = run / METRICS
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    folder = run / "plots"
    folder.mkdir(exist_ok=True)
    if any("loss" in row for row in rows):
        figure, axes = _figure("loss (cross-entropy + 1 - Dice, deep supervision)")
        _curve(axes, rows, "loss", label="training")
        figure.savefig(folder / "loss.png", dpi=DPI)
    if any("val_dice" in row for row in rows):
        figure, axes = _figure("Dice on held-out cases")
        for key in sorted({key for row in rows for key in row if key.startswith("val_dice/")}):
            _curve(axes, rows, key, label=key.removeprefix("val_dice/"), marker=".", alpha=0.6)
        _curve(axes, rows, "val_dice", label="mean", marker="o", color="black", linewidth=2.5)
        axes.set_ylim(0, 1)
        axes.legend(fontsize="small", ncols=2, frameon=False)
        figure.savefig(folder / "dice.png", dpi=DPI)


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    return figure, axes


def _curve(axes: Axes, rows: list[dict[str, float | None]], key: str, **style: Any) -> None:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    axes.plot(steps, values, **style)
