"""`report.html`: the scores of a run for people, in one file that needs nothing else.

What the numbers are is decided in `finetune.scores`; how the page looks in `templates/`. Pictures
are inside the file, there is no script, and nothing is fetched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml

from finetune import gallery
from finetune.page import render
from finetune.scores import DatasetScore
from stunet.bundle import Bundle
from stunet.data.crosswalk import Published
from stunet.io.atomic import atomic_write_text

MODELS = ("nnU-Net", "STU-Net-B", "STU-Net-L", "STU-Net-H")  # columns of the published table
MOST_DOTS = 40  # per row; more cases are drawn as so many quantiles of them


@dataclass(frozen=True)
class Run:
    """One bundle on some data sets: all that a report tells.

    Attributes:
        bundle: What was evaluated.
        scores: Per data set.
        tolerance_mm: Of NSD.
        seed: Of the bootstrap.
        command: What the user typed, or nothing.
    """

    bundle: Bundle
    scores: tuple[DatasetScore, ...]
    tolerance_mm: float
    seed: int
    command: str = ""

    @property
    def cases(self) -> int:
        """Cases that were scored."""
        return sum(len(score.cases) for score in self.scores)

    @property
    def mean_dice(self) -> float:
        """Mean over data sets: every data set weighs the same; NaN if none has a score."""
        return _mean(score.foreground_mean() for score in self.scores)

    @cached_property
    def published(self) -> tuple[tuple[DatasetScore, Published], ...]:
        """The data sets that the paper reports on, with its row."""
        rows = ((score, score.matching.crosswalk.published) for score in self.scores)
        return tuple((score, row) for score, row in rows if row is not None)

    def mean_dice_beside_published(self) -> float:
        """Our mean over the data sets that the paper reports on."""
        return _mean(score.foreground_mean() for score, _ in self.published)

    def published_mean(self, model: str) -> float:
        """Mean of a published column over the rows shown, in percent."""
        return _mean(row.dice_percent[model] for _, row in self.published)

    def seen_in_training(self, score: DatasetScore) -> bool:
        """Whether the bundle was trained on data of this name."""
        return score.dataset.name in {source.name for source in self.bundle.provenance.data}


def write_report(path: Path, run: Run) -> None:
    """Write the report of a run."""
    page = render(
        "report.html",
        run=run,
        gallery={score.dataset.name: gallery.worst_cases(score) for score in run.scores},
        colours={"reference": gallery.REFERENCE, "prediction": gallery.PREDICTION},
        models=MODELS,
        weakest=weakest,
        case_dots=case_dots,
        structure_dots=structure_dots,
        recipe=yaml.safe_dump(dict(run.bundle.provenance.recipe), sort_keys=False),
    )
    atomic_write_text(path, page)


def weakest(score: DatasetScore) -> tuple[str, float] | None:
    """The structure of lowest mean Dice; None if none has one."""
    means = {name: dice for name, dice in score.dice().items() if math.isfinite(dice)}
    return min(means.items(), key=lambda item: item[1]) if means else None


def case_dots(score: DatasetScore) -> list[float]:
    """Mean Dice of each case, for drawing."""
    return _dots(np.array([case.mean_dice() for case in score.cases]))


def structure_dots(score: DatasetScore, structure: str) -> list[float]:
    """Dice of a structure in each case, for drawing."""
    column = [s.name for s in score.matching.scored].index(structure)
    return _dots(np.array([case.values("Dice")[column] for case in score.cases]))


def _dots(values: np.ndarray) -> list[float]:
    defined = np.sort(values[np.isfinite(values)])
    if len(defined) > MOST_DOTS:
        defined = np.quantile(defined, (np.arange(MOST_DOTS) + 0.5) / MOST_DOTS)
    return defined.tolist()


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if math.isfinite(value)]
    return sum(defined) / len(defined) if defined else float("nan")
