"""A foreign checkpoint in, a bundle out: weights with all that using them right takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stunet import __version__
from stunet.bundle import sha256_of_file, write_bundle
from stunet.convert.axes import Axes, axes_of
from stunet.convert.checkpoint import Checkpoint, read_checkpoint, read_record
from stunet.convert.labels import Outputs, parse_outputs
from stunet.convert.networks import identify
from stunet.convert.plan import Plan
from stunet.convert.sources import Sources, find_sources, read_json_or_pickle
from stunet.convert.training_plan import training_plan
from stunet.data.label_space import stunet_labels
from stunet.errors import BundleError, CheckpointError
from stunet.inference.model_card import DataSource, Provenance
from stunet.models.spec import ModelConfig
from stunet.transforms.resample import ANISOTROPY_LIMIT
from stunet.types import Channel, Preprocessing

RELEASED = "stunet"  # names the label order of the released weights


@dataclass(frozen=True)
class ConvertOptions:
    """What the files of a checkpoint may not say.

    Attributes:
        orientation: How the training scans are stored: see `axes.axes_of`.
        plans: The plan, JSON or pickle, instead of the one beside the weights.
        labels: A file of label names, or `stunet` for the 105 of the released weights.
        configuration: nnU-Net v2: which configuration of the plan the weights are of.
        licence: SPDX identifier of the weights' licence.
    """

    orientation: str | None = None
    plans: Path | None = None
    labels: str | None = None
    configuration: str | None = None
    licence: str = "other"


@dataclass(frozen=True)
class Converted:
    """A bundle that was written, and what differs from using the weights in nnU-Net."""

    bundle: Path
    model: ModelConfig
    preprocessing: Preprocessing
    outputs: Outputs
    notes: tuple[str, ...]


def convert(path: Path, out: Path, options: ConvertOptions | None = None) -> Converted:
    """Write a bundle from a checkpoint of STU-Net or nnU-Net.

    Args:
        path: A weight file, the folder of a fold, or the folder of a model with one fold.
        out: Bundle folder to write; must not exist.
        options: What the files do not say.

    Raises:
        CheckpointError: The file is not what it should be, something is missing or contradictory,
            or the network was trained with what this library does not have.
        ConfigError: An option is malformed.
        BundleError: `out` is there already, or the weights do not fit their plan.
    """
    options = options or ConvertOptions()
    if out.exists():
        raise BundleError(f"bundle {out}: is already there; remove it or name another folder")
    sources = find_sources(path)
    checkpoint = read_checkpoint(sources.weights)
    record = read_record(sources.record) if sources.record is not None else {}
    plan = training_plan(sources, checkpoint, record, options.plans, options.configuration)
    dataset, dataset_place = _dataset(sources, checkpoint)
    axes = _axes(plan, options, sources.weights)
    model, tensors = identify(checkpoint.weights, plan, axes, str(sources.weights))
    outputs, place = _outputs(dataset, dataset_place, sources.weights, options)
    outputs.check(model.classes, place)
    preprocessing = Preprocessing(
        spacing_mm=axes.of_triple(plan.spacing_mm),
        patch_size=axes.of_triple(plan.patch_size),
        channels=_named(plan.channels, dataset),
    )
    provenance = _provenance(checkpoint, record, dataset, plan, options)
    labels, regions = outputs.labels, outputs.regions
    write_bundle(out, model, preprocessing, labels, tensors, provenance, regions)
    notes = _notes(plan, axes, checkpoint.facts)
    return Converted(out, model, preprocessing, outputs, notes)


def _dataset(sources: Sources, checkpoint: Checkpoint) -> tuple[Mapping[str, Any], str]:
    """`dataset.json`, from beside the weights or from within them, and where it was."""
    if sources.dataset is not None:
        raw, place = read_json_or_pickle(sources.dataset), str(sources.dataset)
    else:
        raw = checkpoint.init.get("dataset_json")
        place = f"{sources.weights} (dataset_json)"
    return (raw if isinstance(raw, Mapping) else {}), place


def _outputs(
    dataset: Mapping[str, Any], place: str, weights: Path, options: ConvertOptions
) -> tuple[Outputs, str]:
    if options.labels == RELEASED:
        return Outputs(stunet_labels()), f"--labels {options.labels}"
    if options.labels is not None:
        raw = read_json_or_pickle(Path(options.labels))
        return parse_outputs(raw, options.labels), options.labels
    if not dataset:
        raise CheckpointError(
            f"convert {weights}: there is no dataset.json beside it that names its "
            "labels; give one by --labels, or --labels stunet for the released 105"
        )
    return parse_outputs(dataset, place), place


def _axes(plan: Plan, options: ConvertOptions, weights: Path) -> Axes:
    orientation = options.orientation
    if plan.reorients:
        orientation = orientation or "RAS"
        if orientation.upper() != "RAS":
            raise CheckpointError(
                f"convert {weights}: its scans were brought to RAS when they were read; leave out "
                f"--orientation {orientation}"
            )
    if orientation is None:
        raise CheckpointError(
            f"convert {weights}: nnU-Net feeds scans as their files store them, and no file here "
            "tells how; give --orientation as 'stunet data show' prints it for a scan it was "
            "trained on, e.g. LPS"
        )
    return axes_of(orientation, plan.transpose)


def _named(channels: tuple[Channel, ...], dataset: Mapping[str, Any]) -> tuple[Channel, ...]:
    names = dataset.get("channel_names", dataset.get("modality", {}))
    if not isinstance(names, Mapping):
        return channels
    return tuple(
        replace(channel, name=str(names.get(str(number), channel.name)))
        for number, channel in enumerate(channels)
    )


def _provenance(
    checkpoint: Checkpoint,
    record: Mapping[str, Any],
    dataset: Mapping[str, Any],
    plan: Plan,
    options: ConvertOptions,
) -> Provenance:
    facts, init = checkpoint.facts, checkpoint.init
    name, cases = dataset.get("name"), dataset.get("numTraining")
    training = DataSource(
        name=str(name),
        licence=str(dataset.get("licence", dataset.get("license", "unknown"))),
        cases=cases if isinstance(cases, int) else 0,
        sha256="unknown",
    )
    origin = {
        "file": checkpoint.path.name,
        "sha256": sha256_of_file(checkpoint.path),
        "trained_by": plan.generation,
        "trainer": facts.get("trainer_name") or record.get("name"),
        "configuration": init.get("configuration"),
        "fold": init.get("fold"),
        "epochs": facts.get("current_epoch", facts.get("epoch")),
        "orientation": options.orientation,
    }
    return Provenance(
        licence=options.licence,
        data=(training,) if name else (),
        recipe={"converted": origin},
        commit=None,
        step=0,  # of this library's optimizer: it took none
        metrics={},
        versions={"stunet": __version__},
    )


def _notes(plan: Plan, axes: Axes, facts: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if any(channel.scheme == "zscore" for channel in plan.channels):
        when = "" if plan.generation == "nnU-Net v1" else " before resampling"
        notes.append(
            f"nnU-Net takes a scan's mean and deviation{when} within the box of its nonzero "
            "voxels, here they are of the whole scan after resampling"
        )
    if max(plan.spacing_mm) > ANISOTROPY_LIMIT * min(plan.spacing_mm):
        notes.append("across thick slices nnU-Net takes the nearest logits, here interpolated ones")
    if axes.mirrored:
        turned = ", ".join("zyx"[axis] for axis in axes.mirrored)
        notes.append(f"the network turns images round along {turned}, as it was trained")
    mirrored = facts.get("inference_allowed_mirroring_axes", [0, 1, 2])
    if sorted(mirrored or ()) != [0, 1, 2]:
        notes.append("it was not trained with mirroring on all axes: predict without --mirror")
    return tuple(notes)
