"""What `quickstart` does with its fresh bundle on further phantoms."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_tools.ingest import ingest
from data_tools.phantom import PhantomConfig, write_phantom
from data_tools.plan_from import bundle_plan
from data_tools.prepare import PrepareConfig, prepare
from finetune.config import FinetuneConfig
from finetune.scores import DatasetScore
from finetune.transfer import TransferOptions, transfer
from launch.local import train_to_end
from stunet.io.store import open_store
from stunet.training.export import export_run

PROCESSES = 2
# Four structures more than the bundle knows, in other patients.
MORE_LABELS = PhantomConfig(cases=6, classes=12, seed=1)
# The bundle's structures in other patients again, on another grid.
OTHER_GRID = PhantomConfig(cases=2, seed=2, shape_zyx=(52, 104, 128), spacing_mm=(5.0, 3.0, 3.0))


def fine_tune(bundle: Path, out: Path) -> str:
    """Fine-tune on a second data set, score what it held out, and say how that went.

    Raises:
        Preempted, TrainingError: As `train_to_end`.
    """
    raw = ingest(write_phantom(out / "raw", MORE_LABELS))
    store, run = out / "store", out / "run"
    prepare(raw, store, PrepareConfig(holdout=2), source=bundle_plan(str(bundle)))
    places = (f"init={bundle}", f"store={store}", f"out={run}")
    train_to_end(["finetune", "finetune/quickstart_phantom", *places], PROCESSES)
    tuned = out / "bundle"
    if tuned.exists():
        shutil.rmtree(tuned)
    export_run(run, tuned, FinetuneConfig)
    held_out = [row.case_id for row in open_store(store).rows if row.split == "val"]
    options = TransferOptions(only=held_out, own_names=True, command="stunet quickstart")
    (score,) = transfer(tuned, [raw], out / "transfer", options)
    return f"fine-tuned to {len(score.matching.scored)} structures: {_dice(score)}"


def carry_over(bundle: Path, out: Path) -> str:
    """Segment a third data set without any training, and say how that went."""
    raw = ingest(write_phantom(out / "raw", OTHER_GRID))
    (score,) = transfer(
        bundle, [raw], out / "transfer", TransferOptions(command="stunet quickstart")
    )
    return f"as it is on phantoms from another scanner: {_dice(score)}"


def _dice(score: DatasetScore) -> str:
    return f"mean Dice {score.foreground_mean():.2f} on {len(score.cases)} cases"
