"""A plan of nnU-Net in one form for both generations, and what parsing either takes.

A plan is along the network's own axes: the stored ones, permuted by `transpose`; `axes` brings them
into ours. Nothing is guessed: a missing key is named, and so is whatever this library would do
differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from stunet.errors import CheckpointError
from stunet.types import Channel, Size3, Spacing


@dataclass(frozen=True)
class Plan:
    """How a network was trained, along its own axes.

    Attributes:
        spacing_mm: Target spacing.
        patch_size: In voxels.
        strides: Down-sampling steps, finest first, as planned.
        channels: With placeholder names where the plan has none.
        transpose: Axis of the stored array (k, j, i) that each axis of the network is.
        reorients: Whether scans were brought to RAS+ when they were read.
        generation: Of nnU-Net.
        architecture: Class and options of the network where the plan states them.
    """

    spacing_mm: Spacing
    patch_size: Size3
    strides: tuple[Size3, ...]
    channels: tuple[Channel, ...]
    transpose: Size3
    reorients: bool
    generation: Literal["nnU-Net v1", "nnU-Net v2"]
    architecture: Mapping[str, Any] = field(default_factory=dict)


def difference(one: Plan, other: Plan) -> str:
    """What two plans differ in, as far as it changes results; empty if in nothing."""
    names = ("spacing_mm", "patch_size", "strides", "channels", "transpose", "reorients")
    return ", ".join(
        f"{name} {getattr(one, name)} against {getattr(other, name)}"
        for name in names
        if getattr(one, name) != getattr(other, name)
    )


class Keys:
    """A mapping that names the file and the key it lacks."""

    def __init__(self, record: Mapping[str, Any], place: str) -> None:
        self.record, self.place = record, place

    def __getitem__(self, key: str) -> Any:
        if key not in self.record:
            raise CheckpointError(
                f"convert {self.place}: has no {key!r}; give a complete plan by --plans"
            )
        return self.record[key]

    def below(self, key: str) -> Keys:
        """An object within it."""
        value = self[key]
        if not isinstance(value, Mapping):
            raise CheckpointError(f"convert {self.place}: {key!r} is not an object")
        return Keys(value, self.place)

    def refuse(self, what: str) -> CheckpointError:
        """The error that a plan asks for what there is not here."""
        return CheckpointError(f"convert {self.place}: {what}, which this library does not do")


def ct_channel(number: int, properties: Keys, std: str) -> Channel:
    """A channel of CT from the statistics of its foreground; `std` is the key of the deviation."""
    low, high = float(properties["percentile_00_5"]), float(properties["percentile_99_5"])
    mean, deviation = float(properties["mean"]), float(properties[std])
    return Channel(f"channel {number}", "ct", (low, high), mean, deviation)


def check_size(patch: Sequence[Any], name: str, keys: Keys) -> None:
    """Refuse networks that are not in 3D."""
    if len(patch) != 3:
        raise keys.refuse(f"{name} is a network in {len(patch)}D")


def triple(keys: Keys, key: str, kind: type) -> Any:
    """Three numbers of a kind."""
    values = keys[key]
    if not isinstance(values, Sequence) or len(values) != 3:
        raise CheckpointError(f"convert {keys.place}: {key} {values} is not three numbers")
    return tuple(kind(value) for value in values)


def steps(strides: Any, place: str) -> Sequence[Size3]:
    """Strides as triples of integers."""
    if any(len(step) != 3 for step in strides):
        raise CheckpointError(f"convert {place}: strides {strides} are not triples")
    return [(int(z), int(y), int(x)) for z, y, x in strides]


def checked(plan: Plan, place: str) -> Plan:
    """Refuse numbers that cannot be, and strides that the rest of the plan contradicts."""
    numbers = (
        *plan.spacing_mm,
        *plan.patch_size,
        *(edge for step in plan.strides for edge in step),
    )
    if not min(numbers) > 0:
        raise CheckpointError(
            f"convert {place}: spacing {plan.spacing_mm}, patch {plan.patch_size} and strides "
            f"{plan.strides} must be above 0; give the plan by --plans"
        )
    total = tuple(prod(step[axis] for step in plan.strides) for axis in range(3))
    if any(edge % by for edge, by in zip(plan.patch_size, total, strict=True)):
        raise CheckpointError(
            f"convert {place}: patch {plan.patch_size} is not divisible by {total}, the product of "
            "the strides: these are not the strides the weights were trained with"
        )
    pools = plan.architecture.get("num_pool_per_axis")
    halvings = [sum(step[axis] > 1 for step in plan.strides) for axis in range(3)]
    if pools is not None and list(pools) != halvings:
        raise CheckpointError(
            f"convert {place}: num_pool_per_axis {list(pools)} contradicts the strides, which go "
            f"down {halvings} times: these are not the strides the weights were trained with"
        )
    return plan
