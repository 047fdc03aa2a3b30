"""What a network's outputs stand for, from whatever file states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stunet.data.region_labels import IGNORE, labels_of_regions
from stunet.errors import CheckpointError
from stunet.types import Region


@dataclass(frozen=True)
class Outputs:
    """Names of labels by value, background included, and regions where these are the outputs."""

    labels: dict[str, int]
    regions: tuple[Region, ...] = ()

    def check(self, count: int, place: str) -> None:
        """Refuse outputs that are not those of a network with so many.

        Raises:
            CheckpointError: Naming both numbers.
        """
        values = list(self.labels.values())
        if self.regions:
            fits, stated = len(self.regions) == count, f"{len(self.regions)} regions"
        else:
            fits = values == list(range(count)) and self.labels.get("background") == 0
            stated = f"{len(values)} labels with values {min(values)} to {max(values)}"
        if not fits:
            background = "" if self.regions else ", background 0 included"
            raise CheckpointError(
                f"convert {place}: states {stated}, the network has {count} outputs{background}; "
                "give its own labels by --labels"
            )


def parse_outputs(raw: Any, place: str) -> Outputs:
    """Return what the outputs stand for.

    Args:
        raw: A `dataset.json` of either generation of nnU-Net, a bundle's `labels.json`, or an
            object of names and values.
        place: The file, for messages.

    Raises:
        CheckpointError: It states no labels, or malformed ones.
    """
    labels = raw.get("labels", raw) if isinstance(raw, Mapping) else None
    if not isinstance(labels, Mapping) or not labels:
        raise CheckpointError(f"convert {place}: has no 'labels'; give a file that has by --labels")
    if all(str(key).isdigit() for key in labels):  # nnU-Net v1 and Decathlon: value to name
        labels = {str(name): value for value, name in labels.items()}
    values = {
        str(name): _values(str(name), value, place)
        for name, value in labels.items()
        if name != IGNORE
    }
    if any(len(several) > 1 for several in values.values()):
        return _regions(values, raw.get("regions_class_order"), place)
    single = {name: value for name, (value,) in values.items()}
    return Outputs(dict(sorted(single.items(), key=lambda item: item[1])))


def _values(name: str, value: Any, place: str) -> tuple[int, ...]:
    try:
        return tuple(int(v) for v in value) if isinstance(value, list) else (int(value),)
    except (TypeError, ValueError):
        raise CheckpointError(
            f"convert {place}: label {name!r} has the value {str(value)[:40]!r}"
        ) from None


def _regions(values: Mapping[str, tuple[int, ...]], order: Any, place: str) -> Outputs:
    """Every name but the background is an output; a value is named by the region it is alone."""
    regions = {name: several for name, several in values.items() if set(several) != {0}}
    if not isinstance(order, list) or len(order) != len(regions):
        raise CheckpointError(
            f"convert {place}: has {len(regions)} regions, regions_class_order is {order}; give "
            "one value for each by --labels"
        )
    labels = {"background": 0} | labels_of_regions(regions)
    paired = zip(regions.items(), order, strict=True)
    return Outputs(labels, tuple(Region(name, several, int(v)) for (name, several), v in paired))
