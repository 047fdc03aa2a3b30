"""Where weights come from, and the model card that tells it to the Hub and to a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from stunet.models.spec import ModelConfig
from stunet.types import Preprocessing

USE = """```python
import stunet

stunet.load("PATH").predict_file("scan.nii.gz", "labels.nii.gz")
```"""


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
    """

    licence: str
    data: tuple[DataSource, ...]
    recipe: Mapping[str, Any]
    commit: str | None
    step: int
    metrics: Mapping[str, Mapping[str, float | None]]
    versions: Mapping[str, str]


def model_card(
    name: str,
    model: ModelConfig,
    preprocessing: Preprocessing,
    labels: Mapping[str, int],
    provenance: Provenance,
) -> str:
    """Return a bundle's `README.md`: a YAML header with results, then text for a person.

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
    sources = [(source.name, source.cases, source.licence) for source in provenance.data]
    scores = [(r.dataset_name, r.metric_type, f"{r.metric_value:.4f}") for r in results]
    parts = [
        f"---\n{header.to_yaml().strip()}\n---",
        f"# {name}",
        f"{model.name} {model.size}, {len(labels) - 1} structures, input {channels}. It works at "
        f"{spacing} mm in patches of {patch} voxels (z y x). Not a medical device.",
        USE,
        "## Training data",
        _table("data set | cases | licence", sources),
        "## Results",
        _table("data set | metric | value", scores) if scores else "Not yet measured.",
        "## Structures",
        _table("value | name", [(value, label) for label, value in labels.items()]),
    ]
    return "\n\n".join(parts) + "\n"


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
