"""Curves appear when there is something to draw."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.image import imread

from stunet.training.plots import draw_plots


def test_loss_and_dice_are_drawn_from_the_metrics(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": None},
        {"step": 3, "loss": 1.0, "val_dice": 0.4, "val_dice/liver": 0.4},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_plots(tmp_path)
    for name in ("loss", "dice"):
        picture = imread(tmp_path / "plots" / f"{name}.png")
        assert picture[..., :3].std() > 0.05  # not a blank page


def test_a_run_without_metrics_gets_no_plot(tmp_path: Path) -> None:
    draw_plots(tmp_path)
    assert list((tmp_path / "plots").iterdir()) == []
