"""How pages are made: the templates, and how numbers are written in them.

Used by `report` and `comparison`, which decide what there is to tell.
"""

from __future__ import annotations

import math
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from stunet import __version__
from stunet.metrics.intervals import Interval
from stunet.pages import page_templates

TEMPLATES = Path(__file__).parent / "templates"
PACKAGES = ("torch", "numpy", "scipy", "nibabel", "SimpleITK")


def render(template: str, **context: object) -> str:
    """Fill one of the templates; every page has the filters, versions and the day."""
    environment = page_templates(TEMPLATES)
    environment.filters |= {
        "percent": percent,
        "number": number,
        "p_value": p_value,
        "plain": lambda name: str(name).replace("_", " "),
    }
    versions = {"stunet": __version__, "Python": platform.python_version()}
    versions |= {package: version(package) for package in PACKAGES}
    return environment.get_template(template).render(
        **context,
        percent_of=percent_of,
        millimetres_of=millimetres_of,
        versions=versions,
        day=datetime.now(UTC).date().isoformat(),
    )


def percent(share: float, digits: int = 1) -> str:
    """A share as percent, a dash where it is not defined.

    >>> percent(0.8381), percent(float("nan"))
    ('83.8', '–')
    """
    return number(share * 100, digits)


def number(value: float, digits: int = 1) -> str:
    """A number with a true minus sign, which zero has not; a dash where it is not defined.

    >>> number(-1.26), number(-0.01), number(float("nan"))
    ('−1.3', '0.0', '–')
    """
    return f"{value:z.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def p_value(p: float) -> str:
    """A p value to two figures, never as zero.

    >>> p_value(0.0321), p_value(0.00002)
    ('0.032', '< 0.001')
    """
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def percent_of(interval: Interval) -> tuple[str, str]:
    """Mean and interval of a share, as percent; no interval where there is none."""
    low, high = percent(interval.low), percent(interval.high)
    return percent(interval.mean), f"{low} to {high}" if math.isfinite(interval.low) else ""


def millimetres_of(interval: Interval) -> tuple[str, str]:
    """Mean and interval of a distance."""
    low, high = number(interval.low), number(interval.high)
    return number(interval.mean), f"{low} to {high}" if math.isfinite(interval.low) else ""
