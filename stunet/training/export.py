"""From a run's checkpoint to a bundle: weights with all that using them takes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from stunet.bundle import write_bundle
from stunet.engine import checkpoint_files
from stunet.engine.loop import CHECKPOINTS
from stunet.engine.tracking import METRICS
from stunet.errors import CheckpointError
from stunet.inference.model_card import DataSource, Provenance
from stunet.io.manifest import DATASET, DatasetInfo
from stunet.models.lora import merge_lora
from stunet.models.spec import ModelConfig
from stunet.training.recipe import TrainingConfig, model_config
from stunet.training.run_folder import NETWORK, RUN, read_json, read_recipe
from stunet.types import Preprocessing


def export_run(
    run: Path,
    out: Path,
    schema: type[TrainingConfig],
    step: int | None = None,
    weights: Literal["ema", "last"] | None = None,
) -> Path:
    """Write a bundle from a run folder and return its path.

    Args:
        run: The run folder.
        out: Bundle folder to write; must not exist.
        schema: Of the run's recipe.
        step: The checkpoint to take; None: the newest that is whole.
        weights: Their moving average or the last ones; None: the average where there is one, since
            it is what was validated.

    Raises:
        CheckpointError: `run` is not a run folder, or has no such whole checkpoint or weights.
        BundleError: `out` is there already.
    """
    config = read_recipe(run, schema)
    facts = read_json(run, RUN)
    info = DatasetInfo.from_json(read_json(run, DATASET))
    checkpoint = _checkpoint(run / CHECKPOINTS, step)
    step_taken = int(checkpoint_files.read_state(checkpoint)["step"])
    provenance = Provenance(
        licence="other",  # the owner of data and weights decides; the card is theirs to edit
        data=tuple(DataSource(**source) for source in facts["data"]),
        recipe=asdict(config),
        commit=facts["commit"],
        step=step_taken,
        metrics=_validation(run, step_taken, info.name),
        versions=facts["versions"],
    )
    preprocessing = Preprocessing(
        spacing_mm=info.spacing_mm,
        patch_size=config.patch_for(info),
        channels=info.channels,
    )
    averaged = config.optim.ema_decay is not None if weights is None else weights == "ema"
    name = checkpoint_files.AVERAGE if averaged else checkpoint_files.WEIGHTS
    tensors = merge_lora(checkpoint_files.load_weights(checkpoint, name))
    network = _network(run, config, info)
    return write_bundle(
        out, network, preprocessing, info.labels, tensors, provenance, info.region_outputs
    )


def _network(run: Path, config: TrainingConfig, info: DatasetInfo) -> ModelConfig:
    if not (run / NETWORK).exists():  # a run of before it was written down
        return model_config(config, info)
    return ModelConfig(**read_json(run, NETWORK))


def _validation(run: Path, step: int, dataset: str) -> dict[str, dict[str, float | None]]:
    """The last mean Dice on held-out cases up to a step, as `Provenance.metrics` wants it."""
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    dice = [row["val_dice"] for row in rows if row["step"] <= step and "val_dice" in row]
    return {f"{dataset} val": {"dice": dice[-1]}} if dice else {}


def _checkpoint(root: Path, step: int | None) -> Path:
    if step is None:
        found, _ = checkpoint_files.newest_whole(root)
    else:
        wanted = checkpoint_files.step_folder(root, step)
        found = wanted if wanted in checkpoint_files.complete_checkpoints(root) else None
    if found is None:
        kept = ", ".join(path.name for path in checkpoint_files.complete_checkpoints(root))
        asked = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise CheckpointError(
            f"run {root.parent}: has no {asked}; there are: {kept}"
            if kept
            else f"run {root.parent}: has no {asked} yet; train it first"
        )
    return found
