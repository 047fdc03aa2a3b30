"""Our side of turning logits into labels on the scan's grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from stunet.inference.export import labels_on_grid
from stunet.inference.segment import segment
from stunet.inference.sweep import Network
from stunet.types import Size3


def export(logits: str, shape: Size3, out: str) -> Callable[[], None]:
    """Bring the logits in a file to labels of `shape` and save them to `out`.

    Starts from all classes of the volume, as the peer does, although our sweep never holds them.
    """
    logits_kzyx = torch.from_numpy(np.load(logits))
    z, y, x = logits_kzyx.shape[1:]

    def turn() -> None:
        planes = logits_kzyx.unbind(1)
        np.save(out, labels_on_grid(planes, (0, 1, 2), (z, y, x), shape))

    return turn


def whole_scan(
    shape: Size3, shape_to: Size3, patch: Size3, features: int, classes: int
) -> Callable[[], list[int]]:
    """Sweep a stand-in for the network over a scan and bring its classes to the scan's grid.

    The stand-in's body repeats the image, so that memory is that of the sweep and the export, not
    of a network's activations; its head is a real one.
    """
    torch.manual_seed(0)
    image = torch.from_numpy(_smooth(shape))[None]
    head = nn.Conv3d(features, classes, 1)
    network = Network(body=lambda tiles: _repeated(tiles, features), head=head)
    segment(network, image[:, :8, :8, :8], (8, 8, 8), (12, 12, 12))  # loads what stays loaded

    def turn() -> list[int]:
        return list(segment(network, image, patch, shape_to).shape)

    return turn


def _repeated(tiles_bcdhw: Tensor, features: int) -> Tensor:
    return tiles_bcdhw.repeat(1, features, 1, 1, 1)


def _smooth(shape: Size3) -> np.ndarray:
    """Waves along all axes, float32."""
    z, y, x = (np.sin(np.arange(side, dtype=np.float32) / 9) for side in shape)
    return z[:, None, None] + y[:, None] * x
