"""The plan that the weights of a bundle were trained with, to prepare other data by."""

from __future__ import annotations

from data_tools.plan import Plan
from stunet.bundle import read_bundle
from stunet.hub.fetch import fetch


def bundle_plan(place: str) -> Plan:
    """Spacing, patch, strides and normalisation of a bundle.

    Args:
        place: Whatever `stunet.load` takes.

    Raises:
        BundleError: There is no bundle.
    """
    bundle = read_bundle(fetch(place))
    return Plan(bundle.preprocessing, bundle.model.strides)
