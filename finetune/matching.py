"""Which structures of a data set a bundle can be scored on.

Names are compared as they are: a declarative crosswalk between naming schemes is not there yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Structure:
    """A structure that data set and bundle both have.

    Attributes:
        name: Its name in both.
        target_value: Its label value in the data set's references.
        bundle_value: Its label value in the bundle's predictions.
    """

    name: str
    target_value: int
    bundle_value: int


@dataclass(frozen=True)
class Matching:
    """What of a data set can be scored.

    Attributes:
        scored: The common structures, in the data set's order.
        unscored: Every other structure of the data set and why it is left out.
    """

    scored: tuple[Structure, ...]
    unscored: Mapping[str, str]


def match_labels(
    target: Mapping[str, int], bundle: Mapping[str, int], ignore_label: int | None = None
) -> Matching:
    """Pair the labels of a data set with those of a bundle by name; background is no structure.

    Args:
        target: The data set's structure names and values.
        bundle: The bundle's structure names and values.
        ignore_label: The data set's value for unlabelled voxels, which is no structure either.

    >>> match_labels({"background": 0, "liver": 6, "spleeen": 7}, {"liver": 2, "spleen": 1})
    Matching(scored=(Structure(name='liver', target_value=6, bundle_value=2),), \
unscored={'spleeen': "the bundle has no class of this name; the nearest is 'spleen'"})
    """
    scored, unscored = [], {}
    for name, value in target.items():
        if value in (0, ignore_label):
            continue
        if name in bundle:
            scored.append(Structure(name, value, bundle[name]))
            continue
        near = get_close_matches(name, bundle, n=1)
        hint = f"; the nearest is '{near[0]}'" if near else ""
        unscored[name] = f"the bundle has no class of this name{hint}"
    return Matching(tuple(scored), unscored)
