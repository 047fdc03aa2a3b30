"""Which part of a network a weight belongs to, and how far from the output it is.

Told from its name by the table of the network's specification; imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from stunet.errors import ConfigError
from stunet.models.spec import ModelSpec, Part

PARTS: tuple[Part, ...] = get_args(Part)  # in the order of the forward pass


@dataclass(frozen=True)
class Place:
    """Where in its network a weight is: the part, and the stage within it from 0."""

    part: Part
    stage: int


def place_of(spec: ModelSpec, name: str) -> Place:
    """The place of a weight.

    Raises:
        ConfigError: The network's table does not have it.
    """
    for beginning, part in spec.parts.items():
        if name.startswith(beginning):
            number = re.search(r"\d+", name.removeprefix(beginning))
            return Place(part, int(number[0]) if number else 0)
    raise ConfigError(
        f"model.name {spec.name}: weight {name} is in no part of the network; add its beginning to"
        " the parts of the network's specification"
    )


def distance_to_output(spec: ModelSpec, names: Iterable[str]) -> dict[str, int]:
    """How many stages each weight is before the heads, which are at 0.

    Decoder stages count from the finest, which is at 1; the coarsest encoder stage comes before
    the coarsest decoder stage.
    """
    places = {name: place_of(spec, name) for name in names}
    stages = {
        part: 1 + max((p.stage for p in places.values() if p.part == part), default=-1)
        for part in PARTS
    }
    behind = {"decoder": stages["decoder"], "encoder": stages["decoder"] + stages["encoder"]}
    return {
        name: 0 if place.part == "head" else behind[place.part] - place.stage
        for name, place in places.items()
    }
