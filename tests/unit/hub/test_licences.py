"""Which licences may not follow which: read off the licences' own conditions."""

from __future__ import annotations

import pytest

from stunet.hub.licences import conflicts
from stunet.inference.model_card import DataSource


def data(*licences: str) -> list[DataSource]:
    return [DataSource(f"set {n}", text, 1, "") for n, text in enumerate(licences)]


@pytest.mark.parametrize(
    ("declared", "licences"),
    [
        ("Apache-2.0", ("CC BY 4.0", "CC0-1.0", "MIT", "BSD-3-Clause")),
        ("CC-BY-NC-4.0", ("CC BY-NC 4.0", "CC-BY-4.0")),
        ("CC-BY-SA-4.0", ("CC BY-SA 4.0", "CC BY 4.0")),
        ("CC-BY-NC-SA-4.0", ("CC-BY-NC-SA-4.0", "CC BY-NC 4.0")),
        ("other", ("CC BY-NC-ND 4.0", "unknown")),
        ("MIT", ()),
    ],
)
def test_allowed(declared: str, licences: tuple[str, ...]) -> None:
    assert conflicts(declared, data(*licences)) == []


@pytest.mark.parametrize(
    ("declared", "licence", "word"),
    [
        ("Apache-2.0", "CC BY-NC 4.0", "commercial"),
        ("apache-2.0", "cc-by-nc-3.0", "commercial"),
        ("CC-BY-4.0", "CC-BY-SA-4.0", "same licence"),
        ("CC-BY-NC-4.0", "CC BY-NC-SA 4.0", "same licence"),
        ("CC-BY-SA-4.0", "CC BY-NC-SA 4.0", "commercial"),
        ("MIT", "GPL-3.0-only", "same licence"),
        ("CC-BY-NC-ND-4.0", "CC-BY-NC-ND-4.0", "allows nothing made from it"),
        ("MIT", "unknown", "not known"),
        ("MIT", "", "not known"),
        ("my-own", "CC BY-NC 4.0", "not known to keep"),
        ("MIT", "CC BY 4.0, CC BY-NC 4.0", "commercial"),  # of a union of data sets
        ("MIT", "MITRE terms", "not known"),
    ],
)
def test_conflicting(declared: str, licence: str, word: str) -> None:
    (told,) = conflicts(declared, data("CC0-1.0", licence))
    assert "'set 1'" in told
    assert word in told
