"""The regions that a network's outputs stand for: to and from `labels.json`, and whether they fit.

How they become a label map is the business of `plane_labels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stunet.errors import BundleError
from stunet.types import Region


def label_record(labels: Mapping[str, int], regions: Sequence[Region]) -> dict[str, Any]:
    """The object of `labels.json`; regions and their class order in the terms of nnU-Net."""
    record: dict[str, Any] = {"labels": dict(labels)}
    if regions:
        record["regions"] = {region.name: list(region.values) for region in regions}
        record["regions_class_order"] = [region.paints for region in regions]
    return record


def regions_of(record: Mapping[str, Any]) -> tuple[Region, ...]:
    """The regions of a `labels.json`; none in bundles of version 1.

    Raises:
        TypeError, ValueError: They are malformed.
    """
    names, order = record.get("regions", {}), record.get("regions_class_order", [])
    return tuple(
        Region(str(name), tuple(map(int, values)), int(paints))
        for (name, values), paints in zip(names.items(), order, strict=True)
    )


def check_regions(
    place: object, outputs: int, labels: Mapping[str, int], regions: Sequence[Region]
) -> None:
    """See that regions are the outputs of a network and speak of its labels.

    Raises:
        BundleError: They do not fit.
    """
    if len({region.name for region in regions}) != outputs:
        raise BundleError(
            f"bundle {place}: {len(regions)} region(s) are described, the network has {outputs} "
            "output(s); describe each under a name of its own"
        )
    known = sorted(labels.values())
    for region in regions:
        if not region.values or not {*region.values, region.paints} <= set(known):
            raise BundleError(
                f"bundle {place}: region {region.name!r} is of labels {list(region.values)} and "
                f"paints {region.paints}; use values of its labels, which are {known}"
            )
