"""What nnU-Net's `dataset.json` means by labels that are lists of values, and by `ignore`."""

from __future__ import annotations

from collections.abc import Mapping

IGNORE = "ignore"  # the value of voxels that nobody labelled; no output of a network


def labels_of_regions(regions: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return a name for every value: of the region that is this value alone, else `label_VALUE`.

    >>> labels_of_regions({"whole": (1, 2), "core": (2,)})
    {'label_1': 1, 'core': 2}
    """
    alone = {values[0]: name for name, values in regions.items() if len(values) == 1}
    found = sorted({value for values in regions.values() for value in values})
    return {alone.get(value, f"label_{value}"): value for value in found}
