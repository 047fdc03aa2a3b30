"""Whether data sets can be trained on together: the same channels, spacing and label space.

Nothing is converted here: several data sets are brought into one label space when they are
prepared.
"""

from __future__ import annotations

from collections.abc import Sequence

from stunet.data.patches import CaseReader
from stunet.errors import DataError
from stunet.io.manifest import DatasetInfo

SPACING_TOLERANCE_MM = 1e-3  # far below any resampling error


def check_agreement(first: CaseReader, other: CaseReader) -> None:
    """Compare what two data sets mean by their voxels.

    Raises:
        DataError: Naming the first difference.
    """
    difference = _difference(first.info, other.info)
    if difference:
        raise DataError(
            f"store {other.root}: {difference} in {first.root}; prepare both with one plan and"
            " label space, see 'stunet data prepare --help'"
        )


def _difference(first: DatasetInfo, other: DatasetInfo) -> str:
    """The first difference as 'X is 1, not 2', empty if there is none."""
    ours = [(channel.name, channel.scheme) for channel in first.channels]
    theirs = [(channel.name, channel.scheme) for channel in other.channels]
    if ours != theirs:
        return f"channels are {_channels(theirs)}, not {_channels(ours)} as"
    steps = zip(first.spacing_mm, other.spacing_mm, strict=True)
    if any(abs(a - b) > SPACING_TOLERANCE_MM for a, b in steps):
        return f"spacing is {_mm(other)} mm, not {_mm(first)} mm as"
    for name in dict.fromkeys([*first.labels, *other.labels]):
        expected, found = first.labels.get(name), other.labels.get(name)
        if expected != found:
            return f"structure {name!r} is {_value(found)}, not {_value(expected)} as"
    if first.ignore_label != other.ignore_label:
        return f"ignore_label is {other.ignore_label}, not {first.ignore_label} as"
    if first.region_outputs != other.region_outputs:  # in order: they are output channels
        return f"regions are {_regions(other)}, not {_regions(first)} as"
    return ""


def _channels(channels: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({scheme})" for name, scheme in channels)


def _regions(info: DatasetInfo) -> str:
    told = [f"{r.name} of {list(r.values)} painted {r.paints}" for r in info.region_outputs]
    return ", ".join(told) or "none"


def _mm(info: DatasetInfo) -> str:
    return " x ".join(f"{mm:g}" for mm in info.spacing_mm)


def _value(value: int | None) -> str:
    return "absent" if value is None else f"label {value}"
