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
    """Return a ready `Predictor` from a bundle folder. See `stunet.bundle.load_predictor`."""
    from stunet.bundle import load_predictor

    return load_predictor(bundle, device=device)
