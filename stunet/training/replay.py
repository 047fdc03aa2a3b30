"""The patches of a step as the network saw them, made again: to look at what broke or jumped.

Patch i of a run is a function of its seed and i, so nothing of the data had to be kept. Written are
`batch.safetensors` (images, labels), `samples.json` (draws and statistics) and `sheet.png`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from stunet.data.patches import Patch
from stunet.data.sampler import step_samples
from stunet.engine.json_lines import read_rows
from stunet.engine.skips import SKIPPED
from stunet.errors import ConfigError
from stunet.io.atomic import atomic_write_bytes, atomic_write_json
from stunet.io.manifest import DATASET, DatasetInfo
from stunet.planes import PLANES, choose_window, colours, fullest, overlay
from stunet.training.data import open_data, patch_source, with_plan
from stunet.training.recipe import TrainingConfig
from stunet.training.run_folder import read_json, read_recipe

BATCH, SAMPLES, SHEET = "batch.safetensors", "samples.json", "sheet.png"
PANEL_INCHES, DOTS_PER_INCH = 2.2, 110
SHOWN = 16  # patches on a sheet; those of a larger batch are in the other files


def replay(
    run: Path,
    schema: type[TrainingConfig],
    step: int | None,
    samples: Sequence[int],
    out: Path | None,
) -> tuple[Path, list[str]]:
    """Make the patches of a step, or patches by number, again and write them down.

    Args:
        run: The run folder; the data that it names must still be there.
        schema: Of its recipe.
        step: A step, counted from 1 as in `metrics.jsonl`.
        samples: Patches by number, where no step is given.
        out: Folder to write; None: `replay/step_N` or `replay/samples` in the run folder.

    Returns:
        The folder, and one line about each patch.

    Raises:
        ConfigError: Neither a step nor a patch is named, or both, or one that does not exist.
        CheckpointError: `run` is not a run folder.
    """
    config = read_recipe(run, schema)
    if (step is None) == (not samples):
        raise ConfigError(f"replay {run}: name either a step or --sample numbers")
    wanted = list(samples) if step is None else _samples_of(step, config)
    if min(wanted) < 0:
        raise ConfigError(f"replay {run}: patch {min(wanted)} does not exist; count from 0")
    recorded = DatasetInfo.from_json(read_json(run, DATASET))
    plan = recorded.channels, recorded.patch_size, recorded.strides
    data = with_plan(open_data(config), *plan)
    source = patch_source(data, config)
    patches = [source.raw(sample).augmented() for sample in wanted]
    names = {value: name for name, value in data.info.labels.items()}
    facts = [_facts(patch, names) for patch in patches]
    out = out or run / "replay" / (f"step_{step:06d}" if step is not None else "samples")
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        "image_bcdhw": torch.stack([patch.image_cdhw for patch in patches]),
        "label_bdhw": torch.stack([patch.label_dhw for patch in patches]),
        "sample": torch.tensor(wanted),
    }
    save_file(tensors, out / BATCH)
    record = {"step": step, "skipped": _skipped_row(run, step), "samples": facts}
    atomic_write_json(out / SAMPLES, record)
    atomic_write_bytes(out / SHEET, _sheet(patches[:SHOWN]))
    return out, [_line(fact) for fact in facts]


def _samples_of(step: int, config: TrainingConfig) -> list[int]:
    if not 1 <= step <= config.optim.total_steps:
        raise ConfigError(
            f"replay: step {step} is not in 1 to optim.total_steps={config.optim.total_steps}"
        )
    return list(step_samples(step - 1, config.global_batch))


def _skipped_row(run: Path, step: int | None) -> dict[str, Any] | None:
    """What was written down when the step was skipped, without the draws, which are the same."""
    for row in read_rows(run / SKIPPED):
        if row["step"] == step:
            losses = {str(sample["sample"]): sample["loss"] for sample in row["samples"]}
            return {"reason": row["reason"], "losses": losses}
    return None


def _facts(patch: Patch, names: dict[int, str]) -> dict[str, Any]:
    """Numbers of one patch as JSON values."""
    image, label = patch.image_cdhw, patch.label_dhw
    finite = image[torch.isfinite(image)]
    values, counts = label.unique(return_counts=True)
    return {
        "sample": patch.draw.sample,
        "case": patch.draw.case_id,
        "not_finite": image.numel() - finite.numel(),
        "image": {
            name: float(getattr(finite.double(), name)()) if finite.numel() else None
            for name in ("min", "max", "mean", "std")
        },
        "label_voxels": {
            names.get(value, str(value)): count
            for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        },
        "sha256": {name: _sha256(tensor) for name, tensor in (("image", image), ("label", label))},
        "draw": asdict(patch.draw),
    }


def _sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _line(fact: dict[str, Any]) -> str:
    image, voxels = fact["image"], dict(fact["label_voxels"])
    total = sum(voxels.values())
    named = ", ".join(f"{name} {count / total:.1%}" for name, count in voxels.items())
    broken = f"{fact['not_finite']} voxels not finite, " if fact["not_finite"] else ""
    span = "" if image["min"] is None else f"{image['min']:.3g} to {image['max']:.3g}, "
    return f"sample {fact['sample']} ({fact['case']}): {broken}{span}{named}"


def _sheet(patches: Sequence[Patch]) -> bytes:
    """A PNG with a row per patch: three planes through most labelled voxels."""
    figure = Figure(
        figsize=(len(PLANES) * PANEL_INCHES, len(patches) * (PANEL_INCHES + 0.2)),
        layout="constrained",
    )
    rows = figure.subplots(len(patches), len(PLANES), squeeze=False)
    values = {int(value) for patch in patches for value in patch.label_dhw.unique() if value > 0}
    palette = colours(sorted(values))
    for axes_of_row, patch in zip(rows, patches, strict=True):
        image = np.nan_to_num(patch.image_cdhw[0].numpy())
        label = patch.label_dhw.numpy().clip(min=0)
        low, high, _ = choose_window(image)
        for axes, plane in zip(axes_of_row, PLANES, strict=True):
            index = fullest(label != 0, plane.axis)
            axes.imshow(plane.cut(image, index), cmap="gray", vmin=low, vmax=high)
            painted = overlay(plane.cut(label, index), palette, magnify=4)
            height, width = plane.cut(label, index).shape
            axes.imshow(painted, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{patch.draw.sample} {patch.draw.case_id} {plane.name}", fontsize=6)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH)
    return stream.getvalue()
