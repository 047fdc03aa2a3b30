"""Dice on held-out cases while training: at the store's spacing, shared over the ranks.

The score to report is `stunet transfer`'s, on each scan's own grid; this one watches the training.
"""

from __future__ import annotations

import json

import numpy as np
import torch

from pretrain.config import PretrainConfig
from pretrain.data import cases_of
from stunet.data.patches import network_input
from stunet.engine import distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.inference.sliding_window import sliding_window_logits
from stunet.io.store import Store
from stunet.metrics.dice import count_classes, dice_per_class, summarise_dice


def validate(
    engine: TrainEngine, store: Store, config: PretrainConfig, step: int
) -> dict[str, float]:
    """Mean Dice over structures, and the Dice of each; the same numbers on every rank.

    Called inside `engine.evaluating()`. Under ZeRO 3 a forward pass gathers weights from all ranks,
    so there every rank goes through every case.
    """
    cases = cases_of(store, "val")[: config.validation.cases]
    world = 1 if engine.zero_stage == 3 else distributed.world()
    mine = cases if world == 1 else cases[distributed.rank() :: world]
    scores = [_dice(engine, store, config, case) for case in mine]
    gathered = distributed.gather_text(json.dumps(scores))
    texts = gathered[:1] if world == 1 else gathered
    rows = [row for text in texts for row in json.loads(text)]
    if not rows:
        return {}
    summary = summarise_dice(np.array(rows, dtype=np.float64))
    values = {"val_dice": summary.foreground_mean}
    for name, value in store.info.labels.items():
        if value != 0:
            values[f"val_dice/{name}"] = float(summary.per_class[value])
    return values


def _dice(
    engine: TrainEngine, store: Store, config: PretrainConfig, case: int
) -> list[float | None]:
    """Dice of each label value of a case; None where neither map holds it."""
    row, info = store.rows[case], store.info
    image = network_input(store, case, (0, 0, 0), row.shape_zyx)
    logits = sliding_window_logits(
        engine.module,
        torch.from_numpy(image),
        config.patch_size or info.patch_size,
        step=config.validation.step,
        device=str(engine.device),
    )
    counts = count_classes(
        logits.argmax(0).cpu().numpy(),
        store.read_label(case, (0, 0, 0), row.shape_zyx),
        len(logits),
        info.ignore_label,
    )
    return [None if np.isnan(dice) else float(dice) for dice in dice_per_class(counts)]
