"""Dice on held-out cases while training: at the store's spacing, shared over the ranks.

The score to report is `stunet transfer`'s, on each scan's own grid; this one watches the training.
"""

from __future__ import annotations

import json

import numpy as np
import torch

from stunet.data.patches import CaseReader, network_input
from stunet.engine import distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.inference.segment import segment
from stunet.inference.sliding_window import WindowOptions
from stunet.inference.sweep import Network
from stunet.metrics.dice import count_classes, count_regions, dice_per_class, summarise_dice
from stunet.training.data import TrainingData
from stunet.training.recipe import TrainingConfig
from stunet.types import Size3


def validate(
    engine: TrainEngine, data: TrainingData, config: TrainingConfig, step: int
) -> dict[str, float]:
    """Mean Dice over structures or regions, and of each; the same numbers on every rank.

    Called inside `engine.evaluating()`. Under ZeRO 3 a forward pass gathers weights from all ranks,
    so there every rank goes through every case.
    """
    cases = [
        (part, case)
        for part, chosen in zip(data.parts, data.cases, strict=True)
        for case in chosen.val[: config.validation.cases]
    ]
    world = 1 if engine.zero_stage == 3 else distributed.world()
    mine = cases if world == 1 else cases[distributed.rank() :: world]
    patch_size = config.patch_for(data.info)
    scores = [_dice(engine, part, case, patch_size, config.validation.step) for part, case in mine]
    gathered = distributed.gather_text(json.dumps(scores))
    texts = gathered[:1] if world == 1 else gathered
    rows = [row for text in texts for row in json.loads(text)]
    if not rows:
        return {}
    background = None if data.info.regions else 0
    summary = summarise_dice(np.array(rows, dtype=np.float64), background)
    values = {"val_dice": summary.foreground_mean}
    for name, channel in data.info.outputs.items():
        if channel != background:
            values[f"val_dice/{name}"] = float(summary.per_class[channel])
    return values


def _dice(
    engine: TrainEngine, cases: CaseReader, case: int, patch_size: Size3, step: float
) -> list[float | None]:
    """Dice of each output on a case; None where neither map holds it or it is not annotated.

    Regions are scored on the label map that they paint, as nnU-Net does.
    """
    info = cases.info
    image, label = cases.read_patch(case, (0, 0, 0), cases.rows[case].shape_zyx)
    found = segment(
        Network(engine.module, device=engine.device, paints=info.regions_class_order),
        torch.from_numpy(network_input(cases, case, image)),
        patch_size,
        options=WindowOptions(step=step),
    )
    classes = max(info.labels.values()) + 1
    if info.regions:
        made_of = list(info.regions.values())
        counts = count_regions(found, label, made_of, classes, info.ignore_label)
    else:
        made_of = [(), *((value,) for value in range(1, classes))]  # the background is always known
        counts = count_classes(found, label, classes, info.ignore_label)
    annotated = cases.rows[case].annotated
    return [
        float(dice)
        if not np.isnan(dice) and (annotated is None or {*annotated}.issuperset(values))
        else None
        for values, dice in zip(made_of, dice_per_class(counts), strict=True)
    ]
