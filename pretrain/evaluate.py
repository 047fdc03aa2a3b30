"""Dice on held-out cases while training: at the store's spacing, shared over the ranks.

The score to report is `stunet transfer`'s, on each scan's own grid; this one watches the training.
"""

from __future__ import annotations

import json

import numpy as np
import torch

from pretrain.config import PretrainConfig
from pretrain.data import TrainingData, cases_of
from stunet.data.patches import CaseReader, network_input
from stunet.engine import distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.inference.segment import segment
from stunet.inference.sliding_window import WindowOptions
from stunet.inference.sweep import Network
from stunet.metrics.dice import count_classes, dice_per_class, summarise_dice
from stunet.types import Size3


def validate(
    engine: TrainEngine, data: TrainingData, config: PretrainConfig, step: int
) -> dict[str, float]:
    """Mean Dice over structures, and the Dice of each; the same numbers on every rank.

    Called inside `engine.evaluating()`. Under ZeRO 3 a forward pass gathers weights from all ranks,
    so there every rank goes through every case.
    """
    cases = [
        (part, case)
        for part in data.parts
        for case in cases_of(part, "val")[: config.validation.cases]
    ]
    world = 1 if engine.zero_stage == 3 else distributed.world()
    mine = cases if world == 1 else cases[distributed.rank() :: world]
    patch_size = config.patch_size or data.info.patch_size
    scores = [_dice(engine, part, case, patch_size, config.validation.step) for part, case in mine]
    gathered = distributed.gather_text(json.dumps(scores))
    texts = gathered[:1] if world == 1 else gathered
    rows = [row for text in texts for row in json.loads(text)]
    if not rows:
        return {}
    summary = summarise_dice(np.array(rows, dtype=np.float64))
    values = {"val_dice": summary.foreground_mean}
    for name, value in data.info.labels.items():
        if value != 0:
            values[f"val_dice/{name}"] = float(summary.per_class[value])
    return values


def _dice(
    engine: TrainEngine, cases: CaseReader, case: int, patch_size: Size3, step: float
) -> list[float | None]:
    """Dice of each label value of a case; None where neither map holds it or none is annotated."""
    image, label = cases.read_patch(case, (0, 0, 0), cases.rows[case].shape_zyx)
    found = segment(
        Network(engine.module, device=engine.device),
        torch.from_numpy(network_input(cases, case, image)),
        patch_size,
        options=WindowOptions(step=step),
    )
    classes = max(cases.info.labels.values()) + 1
    counts = count_classes(found, label, classes, cases.info.ignore_label)
    annotated = cases.rows[case].annotated
    unknown = set() if annotated is None else set(range(1, classes)) - set(annotated)
    return [
        None if np.isnan(dice) or value in unknown else float(dice)
        for value, dice in enumerate(dice_per_class(counts))
    ]
