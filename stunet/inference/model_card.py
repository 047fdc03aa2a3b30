"""Where weights come from, and the model card that tells it to the Hub and to a person."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from stunet.models.spec import ModelConfig
from stunet.types import Preprocessing, Region

PLACE = "PATH"  # where a bundle lies, as long as it is not published
USE = """```python
import stunet

stunet.load("{place}").predict_file("scan.nii.gz", "labels.nii.gz")
```"""


REGIONS = (
    "The network finds regions, which may overlap. The label file shows the last one of this list "
    "that a voxel is in."
)


@dataclass(frozen=True)
class DataSource:
    """A data set that weights were trained on.

    Attributes:
        name: As its store calls it.
        licence: As the data set declares it, or "unknown".
        cases: Cases trained on.
        sha256: Of what its store says of all cases, the hashes of their source files included.
    """

    name: str
    licence: str
    cases: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """Where weights come from.

    Attributes:
        licence: SPDX identifier of the weights' own licence.
        data: What they were trained on.
        recipe: The complete configuration of the run.
        commit: Of the source tree that trained them, or None.
        step: Optimizer steps taken.
        metrics: Data set and split to metric to value, e.g. `{"BTCV val": {"dice": 0.83}}`; None
            where it is undefined.
        versions: Package name to version.
        licence_note: Why weights are under a licence that their data's seem not to allow, where
            somebody said so.
    """

    licence: str
    data: tuple[DataSource, ...]
    recipe: Mapping[str, Any]
    commit: str | None
    step: int
    metrics: Mapping[str, Mapping[str, float | None]]
    versions: Mapping[str, str]
    licence_note: str | None = None


def model_card(
    name: str,
    model: ModelConfig,
    preprocessing: Preprocessing,
    labels: Mapping[str, int],
    provenance: Provenance,
    place: str = PLACE,
    regions: Sequence[Region] = (),
) -> str:
    """Return a bundle's `README.md`: a YAML header with results, then text for a person.

    Args:
        name: Title of the model.
        model: The network.
        preprocessing: What a volume goes through before it.
        labels: Structure name to value, background included.
        provenance: Where the weights come from.
        place: What `stunet.load` takes to get it.
        regions: What the outputs are where they may overlap.

    Source: the Hub's model card metadata, `model-index` included.
    """
    results = _results(provenance.metrics)
    header = ModelCardData(
        license=provenance.licence.lower(),
        library_name="stunet",
        pipeline_tag="image-segmentation",
        tags=["medical", "3d", "segmentation", model.name],
        datasets=[source.name for source in provenance.data],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name,
        eval_results=results or None,
    )
    spacing = " x ".join(f"{mm:g}" for mm in preprocessing.spacing_mm)
    patch = " x ".join(map(str, preprocessing.patch_size))
    channels = ", ".join(f"{c.name} ({c.scheme})" for c in preprocessing.channels)
    sources = [(s.name, s.cases, s.licence, f"`{s.sha256}`") for s in provenance.data]
    scores = [(r.dataset_name, r.metric_type, f"{r.metric_value:.4f}") for r in results]
    parts = [
        f"---\n{header.to_yaml().strip()}\n---",
        f"# {name}",
        f"{model.name} {model.size}, {len(labels) - 1} structures, input {channels}. It works at "
        f"{spacing} mm in patches of {patch} voxels (z y x). Not a medical device.",
        USE.format(place=place),
        "## Training data",
        _table("data set | cases | licence | SHA-256", sources),
        f"The weights' licence: {provenance.licence}."
        + (f" {provenance.licence_note}" if provenance.licence_note else ""),
        "## Results",
        _table("data set | metric | value", scores) if scores else "Not yet measured.",
        "## Structures",
        _table("value | name", [(value, label) for label, value in labels.items()]),
    ]
    if regions:
        rows = [(r.name, ", ".join(map(str, r.values)), r.paints) for r in regions]
        parts += ["## Regions", REGIONS, _table("region | labels | painted as", rows)]
    return "\n\n".join(parts) + "\n"


def revised_card(old: str, generated: str, new: str) -> str:
    """The card of a bundle whose description changes, with what a person wrote in it.

    Args:
        old: The card as it is.
        generated: What `model_card` makes of the old description.
        new: What `model_card` makes of the new one.

    Returns:
        `new`, or, where `old` was edited, its text under both headers in one: the new one's keys
        win.
    """
    if old == generated:
        return new
    header, text = _parts(old)
    header |= _parts(new)[0]
    yaml_text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"---\n{yaml_text.strip()}\n---\n{text}"


def card_title(card: str) -> str | None:
    """The first heading of a card; None: it has none."""
    found = re.search(r"^# (.+)$", card, re.MULTILINE)
    return found[1] if found else None


def _parts(card: str) -> tuple[dict[str, Any], str]:
    """The YAML header, empty where there is none, and the text."""
    found = re.match(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL)
    header = yaml.safe_load(found[1]) if found else None
    return (header, found[2]) if found and isinstance(header, dict) else ({}, card)


def _results(metrics: Mapping[str, Mapping[str, float | None]]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=data.lower().replace(" ", "-"),
            dataset_name=data,
            metric_type=metric,
            metric_value=round(value, 4),
        )
        for data, values in metrics.items()
        for metric, value in values.items()
        if value is not None and isfinite(value)
    ]


def _table(header: str, rows: Sequence[tuple[object, ...]]) -> str:
    rule = " | ".join("---" for _ in header.split("|"))
    lines = [header, rule, *(" | ".join(map(str, row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)
