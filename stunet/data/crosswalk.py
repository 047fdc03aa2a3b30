"""Crosswalks: what each class of a foreign data set is in the terms of a bundle, as YAML.

Only the declaration, how it is read and how one is chosen for a data set; what of it holds for a
bundle and a data set at hand is decided by `finetune.matching`. Shipped ones are
`configs/transfer/NAME.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path

from stunet.config import load_config
from stunet.errors import ConfigError

FOLDER = "transfer"  # below configs/


@dataclass(frozen=True)
class ClassRule:
    """What one class of a data set is; without any of the four, the class of the same name.

    Attributes:
        value: Its label value, for data sets that name it otherwise or not at all.
        equal: The one class that is the same.
        union: The classes that together are the same.
        part_of: The classes that it is a part of: all classes of the data set that are part of the
            same ones are joined, as a tumour is with its organ, and scored as one.
        not_comparable: Why it cannot be scored.
    """

    value: int | None = None
    equal: str | None = None
    union: tuple[str, ...] = ()
    part_of: tuple[str, ...] = ()
    not_comparable: str | None = None

    @property
    def relation(self) -> str:
        """The rule that is given, `identity` if none is."""
        given = [name for name in _RELATIONS if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"has the rules {' and '.join(given)}; keep one")
        return given[0] if given else "identity"

    def sources(self, name: str) -> tuple[str, ...]:
        """Classes that make up this one, called `name` in the data set."""
        relation = self.relation
        if relation in ("union", "part_of"):
            return tuple(getattr(self, relation))
        return {"equal": (self.equal or "",), "identity": (name,)}.get(relation, ())


_RELATIONS = ("equal", "union", "part_of", "not_comparable")


@dataclass(frozen=True)
class Published:
    """A row of the paper's table of direct inference.

    Attributes:
        cases: How many were evaluated.
        dice_percent: Model to mean Dice in percent.
    """

    cases: int
    dice_percent: dict[str, float]


@dataclass(frozen=True)
class Crosswalk:
    """One data set in the terms of bundles.

    Attributes:
        title: The data set's name for people.
        datasets: Folder or declared names for which this is chosen without being asked for; case,
            spaces and punctuation do not count.
        classes: The data set's class name to its rule; classes that are not here are identities.
        published: What the paper reports.
        note: What a reader of the scores should know.
    """

    title: str
    stage: str = FOLDER
    datasets: tuple[str, ...] = ()
    classes: dict[str, ClassRule] = field(default_factory=dict)
    published: Published | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        values: dict[int, str] = {}
        for name, rule in self.classes.items():
            try:
                sources = rule.sources(name)
            except ValueError as error:
                raise ValueError(f"class {name!r} {error}") from None
            if len(set(sources)) < len(sources):
                raise ValueError(f"class {name!r} names a source twice; keep one")
            if rule.value is not None and values.setdefault(rule.value, name) != name:
                raise ValueError(f"{name!r} and {values[rule.value]!r} share value {rule.value}")


def read_crosswalk(name: str | Path) -> Crosswalk:
    """Read a crosswalk: a YAML file, or a shipped one by its name, such as `btcv`.

    Raises:
        ConfigError: It is not there, or is not a crosswalk.
    """
    shipped = Path(name).suffix == "" and not Path(name).is_file()
    if shipped and str(name) not in shipped_crosswalks():
        known = shipped_crosswalks()
        raise ConfigError(
            f"crosswalk {str(name)!r}: no such file, nor a shipped one"
            f"{_nearest(str(name), known)}; shipped are {', '.join(known)}"
        )
    return _read_shipped(str(name)) if shipped else _read(name)


@cache  # choosing one for each of many data sets looks at all of them
def _read_shipped(name: str) -> Crosswalk:
    return _read(f"{FOLDER}/{name}")


def _read(recipe: str | Path) -> Crosswalk:
    read = load_config(Crosswalk, recipe)
    rules = {key: _with_tuples(rule) for key, rule in read.classes.items()}
    return replace(read, classes=rules)


def shipped_crosswalks() -> tuple[str, ...]:
    """Return the names of all shipped crosswalks, sorted."""
    folder = Path(str(resources.files("configs"))) / FOLDER
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def choose_crosswalk(dataset: str, given: Sequence[str] = ()) -> Crosswalk | None:
    """Return the crosswalk for a data set, None where none applies.

    Args:
        dataset: Name of the data set.
        given: What the user asked for: `DATASET=CROSSWALK` for one data set, `CROSSWALK` for all
            that have none of their own; each a file or a shipped name. Where nothing is given, the
            shipped crosswalk that lists the data set.

    Raises:
        ConfigError: A crosswalk cannot be read.
    """
    own = dict(text.split("=", 1) for text in given if "=" in text)
    if dataset in own:
        return read_crosswalk(own[dataset])
    for_all = [text for text in given if "=" not in text]
    if for_all:
        return read_crosswalk(for_all[-1])
    for name in shipped_crosswalks():
        crosswalk = read_crosswalk(name)
        if spelling(dataset) in map(spelling, crosswalk.datasets):
            return crosswalk
    return None


def check_sources(crosswalk: Crosswalk, known: Mapping[str, int]) -> None:
    """Raise unless every class that the rules refer to is known.

    Args:
        crosswalk: What to check.
        known: Every class name that makes sense.

    Raises:
        ConfigError: With the class, the unknown name and the nearest known one.
    """
    for name, rule in crosswalk.classes.items():
        for source in rule.sources(name) if rule.relation != "identity" else ():
            if source not in known:
                raise ConfigError(
                    f"crosswalk {crosswalk.title}: class {name!r} is {rule.relation} {source!r}, "
                    f"which is no class of the bundle or of STU-Net{_nearest(source, known)}; "
                    "correct the name"
                )


def spelling(name: str) -> str:
    """Return a name without case, spaces and punctuation, for comparing spellings.

    >>> spelling("Right Kidney") == spelling("right_kidney")
    True
    """
    return "".join(character for character in name.lower() if character.isalnum())


def _nearest(name: str, known: Sequence[str] | Mapping[str, int]) -> str:
    near = get_close_matches(name, known, n=1)
    return f" (nearest: {near[0]!r})" if near else ""


def _with_tuples(rule: ClassRule) -> ClassRule:
    """The YAML reader leaves lists inside a dictionary's values."""
    return replace(rule, union=tuple(rule.union), part_of=tuple(rule.part_of))
