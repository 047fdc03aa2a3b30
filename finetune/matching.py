"""Which structures of a data set a bundle can be scored on, and why not on the others.

Applies a crosswalk (`stunet.data.crosswalk`) to the classes at hand. Nothing here reads a volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from stunet.data.crosswalk import ClassRule, Crosswalk, check_sources, spelling
from stunet.data.label_space import stunet_labels
from stunet.errors import ConfigError
from stunet.metrics.groups import group_of

NO_CROSSWALK = Crosswalk(title="names as they are")


@dataclass(frozen=True)
class Structure:
    """What data set and bundle both have.

    Attributes:
        name: What the data set calls it; the first of its classes where several are joined.
        targets: The data set's classes that make it up.
        target_values: Their label values in the references.
        sources: The bundle's classes that make it up.
        bundle_values: Their label values in the predictions.
        relation: `identity`, `equal`, `union` or `part_of`, as the crosswalk says.
        remark: What a reader should know of how it was found, or nothing.
    """

    name: str
    targets: tuple[str, ...]
    target_values: tuple[int, ...]
    sources: tuple[str, ...]
    bundle_values: tuple[int, ...]
    relation: str = "identity"
    remark: str = ""

    @property
    def key(self) -> str:
        """How nnU-Net would call it in a `summary.json`: a label, or a region of labels."""
        values = self.target_values
        return str(values[0]) if len(values) == 1 else str(values)

    @property
    def group(self) -> str:
        """The anatomical group of the first of the bundle's classes."""
        return group_of(self.sources[0])


@dataclass(frozen=True)
class Matching:
    """What of a data set can be scored.

    Attributes:
        scored: The common structures, in the order of the data set's values.
        unscored: Every other class of the data set and why it is left out.
        crosswalk: What was applied.
    """

    scored: tuple[Structure, ...]
    unscored: Mapping[str, str]
    crosswalk: Crosswalk = NO_CROSSWALK


@dataclass(frozen=True)
class _Target:
    """A class that crosswalk and data set, or the data set alone, speak of."""

    name: str
    value: int
    rule: ClassRule
    remark: str = ""


def match_labels(
    target: Mapping[str, int],
    bundle: Mapping[str, int],
    crosswalk: Crosswalk | None = None,
    ignore_label: int | None = None,
) -> Matching:
    """Pair the classes of a data set with those of a bundle; background is no structure.

    A class of the crosswalk is found in the data set by its name (case, spaces and punctuation do
    not count), else by its value. Classes that the crosswalk does not have are matched by their
    very name.

    Args:
        target: The data set's class names and values.
        bundle: The bundle's class names and values.
        crosswalk: What the data set's classes are in the bundle's terms.
        ignore_label: The data set's value for unlabelled voxels, which is no structure either.

    Raises:
        ConfigError: The crosswalk names a class that neither the bundle nor STU-Net has, or needs
            a class of the bundle twice.

    >>> match_labels({"liver": 6, "spleeen": 7}, {"liver": 2, "spleen": 1}).unscored
    {'spleeen': "the bundle has no class 'spleeen'; the nearest is 'spleen'"}
    """
    crosswalk = crosswalk or NO_CROSSWALK
    check_sources(crosswalk, stunet_labels() | dict(bundle))
    scored: list[Structure] = []
    unscored: dict[str, str] = {}
    declared = {n: v for n, v in target.items() if v not in (0, ignore_label)}
    for found in sorted(_targets(declared, crosswalk, unscored), key=lambda found: found.value):
        sources = found.rule.sources(found.name)
        reason = found.rule.not_comparable or _lacking(sources, bundle)
        if reason:
            unscored[found.name] = reason
            continue
        structure = Structure(
            name=found.name,
            targets=(found.name,),
            target_values=(found.value,),
            sources=sources,
            bundle_values=tuple(bundle[source] for source in sources),
            relation=found.rule.relation,
            remark=found.remark,
        )
        _add(scored, structure)
    _check_disjoint(scored, crosswalk)
    return Matching(tuple(scored), unscored, crosswalk)


def _targets(
    declared: Mapping[str, int], crosswalk: Crosswalk, unscored: dict[str, str]
) -> Iterator[_Target]:
    """Every class to decide on; crosswalk classes that the data set lacks become unscored."""
    by_spelling = {spelling(name): name for name in declared}
    by_value = {value: name for name, value in declared.items()}
    taken = {by_spelling[s] for s in map(spelling, crosswalk.classes) if s in by_spelling}
    for name, rule in crosswalk.classes.items():
        own = by_spelling.get(spelling(name))
        other = by_value.get(rule.value) if rule.value is not None else None
        if own is not None:
            yield _Target(name, declared[own], rule)
        elif rule.value is None or other in taken or (declared and other is None):
            unscored[name] = "the data set has no such class"
        elif other is None:
            yield _Target(name, rule.value, rule, f"found by its value {rule.value}")
        else:
            taken.add(other)
            remark = f"found by its value {rule.value}, called {other!r} in the data set"
            yield _Target(name, rule.value, rule, remark)
    for name, value in declared.items():
        if name not in taken:
            yield _Target(name, value, ClassRule())


def _lacking(sources: tuple[str, ...], bundle: Mapping[str, int]) -> str:
    """Why the bundle cannot predict the sources; nothing if it can."""
    missing = [source for source in sources if source not in bundle]
    if not missing:
        return ""
    near = get_close_matches(missing[0], bundle, n=1)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    return f"the bundle has no class {', '.join(map(repr, missing))}{hint}"


def _add(scored: list[Structure], structure: Structure) -> None:
    """Append, or join with an earlier part of the same whole."""
    for place, earlier in enumerate(scored):
        parts = earlier.relation == structure.relation == "part_of"
        if parts and set(earlier.sources) == set(structure.sources):
            scored[place] = replace(
                earlier,
                targets=earlier.targets + structure.targets,
                target_values=earlier.target_values + structure.target_values,
                remark="; ".join(filter(None, (earlier.remark, structure.remark))),
            )
            return
    scored.append(structure)


def _check_disjoint(scored: list[Structure], crosswalk: Crosswalk) -> None:
    """A voxel is scored for one structure only."""
    used: dict[str, str] = {}
    for structure in scored:
        for source in structure.sources:
            if used.setdefault(source, structure.name) != structure.name:
                raise ConfigError(
                    f"crosswalk {crosswalk.title}: the bundle's class {source!r} is used for "
                    f"{used[source]!r} and {structure.name!r}; use it once"
                )
