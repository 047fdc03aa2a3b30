"""Network input in, labels out: the sliding window and the export joined. No files, no geometry.

Labels are those of the dense computation, which adds up the windows of the whole volume and then
interpolates every output; memory is that of one window and a few planes.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stunet.inference.export import labels_on_grid
from stunet.inference.sliding_window import Box, WindowOptions, pad_to_patch, plan_windows
from stunet.inference.sweep import Network, Progress, sweep_planes
from stunet.types import Size3


def segment(
    network: Network,
    image_czyx: Tensor,
    patch_size: Size3,
    shape_to: Size3 | None = None,
    options: WindowOptions | None = None,
    region: Box | None = None,
    on_window: Progress | None = None,
) -> np.ndarray:
    """Return the label of every voxel.

    Args:
        network: What to run.
        image_czyx: Normalised input; where it is smaller than the patch it is surrounded by
            zeros, evenly on both sides.
        patch_size: Window in voxels, z y x.
        shape_to: The grid of the result, over the same field of view; the input's without.
        options: How the window moves.
        region: The part of the input to look at; all else becomes 0.
        on_window: Called with windows done and windows in all.

    Returns:
        (Z, Y, X) of `shape_to`, uint8, uint16 where a label can be above 255.

    Raises:
        VolumeError: The network gives NaN or infinite logits.
        ConfigError: The step is not in (0, 1].
    """
    options = options or WindowOptions()
    z, y, x = image_czyx.shape[1:]
    part = image_czyx if region is None else image_czyx[(slice(None), *region)]
    padded, inner = pad_to_patch(part, patch_size)
    windows = plan_windows(padded, patch_size, options.step)
    planes = sweep_planes(network, padded, windows, inner, options, on_window)
    shape_to = shape_to or (z, y, x)
    return labels_on_grid(planes, windows.order, (z, y, x), shape_to, region, network.paints)
