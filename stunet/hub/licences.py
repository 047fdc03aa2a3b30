"""Whether weights may be under a licence, as far as the licences of their training data tell.

A reading of what licences say in their names, made to catch oversights. It is no legal advice:
whether weights are a derived work at all is open, which is what the override is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from stunet.inference.model_card import DataSource

UNDECLARED = ("other", "unknown", "")  # grants nothing that could be too much
FREE = ("CC0", "PDDL", "PUBLIC DOMAIN", "UNLICENSE", "MIT", "APACHE", "BSD", "ISC", "ODC BY")
SHARED_ALIKE = ("AGPL", "LGPL", "GPL", "ODBL", "MPL", "CDLA SHARING")


@dataclass(frozen=True)
class Terms:
    """What a licence asks of those who share something made from what it covers.

    Attributes:
        non_commercial: Only for purposes that are not commercial.
        no_derivatives: Nothing made from it may be shared.
        share_alike: The family of licences that what is made from it must be under, or None.
    """

    non_commercial: bool = False
    no_derivatives: bool = False
    share_alike: str | None = None


def terms(licence: str) -> Terms | None:
    """Read one licence by its SPDX identifier or usual name; None: not known.

    >>> terms("CC BY-NC-SA 4.0")
    Terms(non_commercial=True, no_derivatives=False, share_alike='CC BY-NC-SA')
    >>> terms("apache-2.0")
    Terms(non_commercial=False, no_derivatives=False, share_alike=None)
    """
    words = " ".join(re.split(r"[\s_-]+", licence.strip().upper()))
    if found := re.match(r"(?:CC|CREATIVE COMMONS) BY((?: (?:NC|SA|ND))*)(?: |$)", words):
        parts = found[1].split()
        family = f"CC BY-{'-'.join(parts)}" if "SA" in parts else None
        return Terms("NC" in parts, "ND" in parts, family)
    if any(_begins(words, name) for name in FREE):
        return Terms()
    family = next((name for name in SHARED_ALIKE if _begins(words, name)), None)
    return None if family is None else Terms(share_alike=family)


def conflicts(licence: str, data: Iterable[DataSource]) -> list[str]:
    """Why weights trained on some data should not be under `licence`; empty: no reason found.

    `other` claims nothing and conflicts with nothing.
    """
    if licence.lower() in UNDECLARED:
        return []
    declared = terms(licence)
    found = []
    for source in data:
        for name in re.split(r"\s*[,;+]\s*|\s+and\s+", source.licence):
            why = _conflict(declared, terms(name))
            if why:
                found.append(f"data set {source.name!r} is under {name!r}, {why}")
    return list(dict.fromkeys(found))


def _conflict(declared: Terms | None, data: Terms | None) -> str:
    if data is None:
        return "which is not known to allow it"
    if data == Terms():
        return ""
    if data.no_derivatives:
        return "which allows nothing made from it to be shared"
    if declared is None:
        return "whose conditions that licence is not known to keep"
    if data.non_commercial and not declared.non_commercial:
        return "which allows no commercial use"
    if data.share_alike and declared.share_alike != data.share_alike:
        return "which asks for the same licence"
    return ""


def _begins(words: str, name: str) -> bool:
    return re.match(rf"{name}(?:$|[\s\d])", words) is not None
