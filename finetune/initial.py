"""The initial weights of a fine-tuning run: the bundle's, as far as data and network allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from finetune.matching import Matching, match_labels
from stunet.bundle import Bundle, load_weights
from stunet.data.crosswalk import choose_crosswalk
from stunet.io.manifest import DatasetInfo
from stunet.models.spec import ModelConfig
from stunet.models.transfer import (
    FROM_SOURCE,
    Change,
    TensorRecord,
    feed,
    summarise,
    transfer_weights,
)
from stunet.registry import build_model


@dataclass(frozen=True)
class Initial:
    """A network as it starts.

    Attributes:
        model: With its weights.
        tensors: What became of every tensor of source and network.
        structures: Each output of the network to the outputs of the source that it starts from.
    """

    model: nn.Module
    tensors: tuple[TensorRecord, ...]
    structures: Mapping[str, tuple[str, ...]]

    @property
    def from_source(self) -> frozenset[str]:
        """Names of the weights that come from the source, whole or in part."""
        return frozenset(record.name for record in self.tensors if record.what in FROM_SOURCE)

    def record(self) -> dict[str, Any]:
        """The whole table, as JSON values."""
        return {
            "structures": {name: list(sources) for name, sources in self.structures.items()},
            "tensors": [
                asdict(tensor) | {"shape": " x ".join(map(str, tensor.shape))}
                for tensor in self.tensors
            ],
        }

    def summary(self) -> list[str]:
        """The table in a few lines."""
        found = [f"{n} <- {' + '.join(s)}" for n, s in self.structures.items() if s]
        anew = [name for name, sources in self.structures.items() if not sources]
        lines = [f"weights {line}" for line in summarise(self.tensors)]
        lines += [f"outputs from the bundle: {', '.join(found)}"] if found else []
        return lines + ([f"outputs that start anew: {', '.join(anew)}"] if anew else [])


def initial_network(
    network: ModelConfig, info: DatasetInfo, bundle: Bundle, crosswalk: str, seed: int
) -> Initial:
    """Build the network of a run and start it from a bundle.

    Args:
        network: The bundle's, with inputs and outputs of the data.
        info: The data.
        bundle: Where the weights come from.
        crosswalk: See `FinetuneConfig.crosswalk`.
        seed: Of what starts anew.

    Raises:
        ConfigError: A weight differs otherwise than by channels and outputs, or the crosswalk does
            not fit.
    """
    model = build_model(network, seed)
    sources = output_sources(info, bundle, crosswalk)
    change = Change(
        entries=_depending(bundle.model, in_channels=bundle.model.in_channels + 1),
        heads=_depending(bundle.model, classes=bundle.model.classes + 1),
        channels=feed(
            [channel.name for channel in bundle.preprocessing.channels],
            [channel.name for channel in info.channels],
        ),
        rows=_rows(info, bundle, sources),
    )
    weights, records = transfer_weights(load_weights(bundle), model.state_dict(), change)
    model.load_state_dict(weights)
    return Initial(model, records, sources)


def output_sources(info: DatasetInfo, bundle: Bundle, crosswalk: str) -> dict[str, tuple[str, ...]]:
    """Each output of the data to the outputs of the bundle that it is: empty where it has none.

    Backgrounds are the same where both have one.

    Raises:
        ConfigError: The crosswalk cannot be read or does not fit.
    """
    chosen = choose_crosswalk(info.name, [crosswalk] if crosswalk else [])
    matching: Matching = match_labels(
        _structures(info.outputs, bool(info.regions)),
        _structures(bundle.outputs, bool(bundle.regions)),
        chosen,
    )
    sources: dict[str, tuple[str, ...]] = dict.fromkeys(info.outputs, ())
    by_value = {
        value: name for name, value in _structures(info.outputs, bool(info.regions)).items()
    }
    for structure in matching.scored:
        for value in structure.target_values:
            sources[by_value[value]] = structure.sources
    if not info.regions and not bundle.regions:
        sources["background"] = ("background",)
    return sources


def _structures(outputs: Mapping[str, int], regions: bool) -> dict[str, int]:
    """Outputs as label values, none of which is the background's 0."""
    return {name: value + regions for name, value in outputs.items() if value + regions > 0}


def _rows(
    info: DatasetInfo, bundle: Bundle, sources: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[int, ...], ...]:
    """As `Change.rows`; outputs that have no name start anew."""
    rows: list[tuple[int, ...]] = [()] * (max(info.outputs.values()) + 1)
    for name, value in info.outputs.items():
        rows[value] = tuple(bundle.outputs[source] for source in sources[name])
    return tuple(rows)


def _depending(network: ModelConfig, **change: int) -> frozenset[str]:
    """The weights whose shape depends on a value of the network."""
    with torch.device("meta"):
        before = build_model(network).state_dict()
        after = build_model(replace(network, **change)).state_dict()  # type: ignore[arg-type]
    return frozenset(name for name, tensor in before.items() if tensor.shape != after[name].shape)
