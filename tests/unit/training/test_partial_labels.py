"""A store whose cases lack structures is trained on and validated, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from stunet.io.manifest import DatasetInfo
from stunet.io.store_writer import StoreWriter
from stunet.types import CaseArrays

RUN = """
import sys
from pretrain.config import PretrainConfig
from stunet.training.recipe import NetworkConfig
from pretrain.train import train
from stunet.data.loader import LoaderConfig
from stunet.engine.loop import LoopConfig
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig

train(
    PretrainConfig(
        out=sys.argv[2],
        store=sys.argv[1],
        patch_size=(16, 16, 16),
        network=NetworkConfig(size="XS", strides=((2, 2, 2),) * 3 + ((1, 1, 1),) * 2),
        loader=LoaderConfig(workers=0),
        optim=OptimConfig(total_steps=2),
        parallel=ParallelConfig(micro_batch=2, precision="fp32"),
        loop=LoopConfig(log_every=1, validate_every=2),
    )
)
"""


def test_only_annotated_structures_are_learned_and_scored(
    make_info: Callable[..., DatasetInfo], make_case: Callable[..., CaseArrays], tmp_path: Path
) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    info = make_info()
    writer = StoreWriter(store, info)
    rows = []
    for seed, split in enumerate(("train", "train", "val")):
        case = make_case(f"c{seed}", seed=seed)
        label = case.label_zyx * (case.label_zyx == 1)
        partly = replace(case, label_zyx=label, split=split, annotated=(1,))
        rows.append(writer.write_case(partly))
    writer.finish(rows)
    subprocess.run(
        [sys.executable, "-c", RUN, str(store), str(run)],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=200,
    )
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["loss"] < 10 for row in metrics if "loss" in row)
    scored = {
        name.removeprefix("val_dice/")
        for row in metrics
        for name, value in row.items()
        if name.startswith("val_dice/") and value is not None and value == value
    }
    assert scored == {name for name, value in info.labels.items() if value == 1}
