"""From logits on the network's grid to labels on another grid over the same field of view.

Interpolation and arg-max go slice by slice: beyond the logits and the result, memory holds all
classes of one output slice, never all classes of the volume.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stunet.transforms.resample import source_positions
from stunet.types import Size3


@torch.no_grad()
def labels_on_grid(logits_kzyx: Tensor, shape_to: Size3) -> np.ndarray:
    """Interpolate logits linearly onto `shape_to` and take the largest class.

    Args:
        logits_kzyx: (K, Z, Y, X) float32. Both grids cover the same box in space, as in
            `stunet.transforms.resample`.
        shape_to: Shape of the result, z y x.

    Returns:
        `shape_to` class indices, uint8 up to 256 classes, else uint16. Equal logits give the
        smaller index.

    Source:
        nnU-Net's export: logits of each class resampled with order 1, then arg-max.
    """
    classes, depth = logits_kzyx.shape[:2]
    labels = np.empty(shape_to, np.uint8 if classes <= 256 else np.uint16)
    in_plane = tuple(shape_to[1:])
    positions = source_positions(depth, shape_to[0]).clip(0, depth - 1)
    for z, position in enumerate(positions):
        below = int(position)
        above = min(below + 1, depth - 1)
        slice_kyx = torch.lerp(
            logits_kzyx[:, below], logits_kzyx[:, above], float(position - below)
        )
        if slice_kyx.shape[1:] != in_plane:
            slice_kyx = interpolate(
                slice_kyx[None], in_plane, mode="bilinear", align_corners=False
            )[0]
        labels[z] = slice_kyx.argmax(dim=0).cpu().numpy()
    return labels
