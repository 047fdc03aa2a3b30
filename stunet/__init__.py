"""stunet: labelled scans in, pre-trained and evaluated segmentation bundles out.

Importing the package imports nothing heavy; `stunet.load` brings torch when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from stunet.inference.predictor import Predictor

__version__ = "0.1.0"


def load(bundle: str | Path, device: str = "cpu") -> Predictor:
    """Return a ready `Predictor`.

    Args:
        bundle: A bundle's folder, `hf://user/name@revision`, or another URL such as `s3://...`;
            what is fetched is cached and its checksums are verified.
        device: Where the network runs.

    Raises:
        BundleError: As `stunet.hub.fetch.fetch` and `stunet.bundle.load_predictor`.
    """
    from stunet.bundle import load_predictor
    from stunet.hub.fetch import fetch

    return load_predictor(fetch(bundle), device=device)
