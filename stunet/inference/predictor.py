"""A network with what it needs to be used right: a scan in, labels on the scan's own grid out.

Nothing of training is needed here. A ready one comes from `stunet.load(bundle)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stunet.errors import VolumeError
from stunet.inference.export import labels_on_grid
from stunet.inference.sliding_window import sliding_window_logits
from stunet.io.volume import Volume, read_image, write_label
from stunet.transforms.normalize import normalize, statistics
from stunet.transforms.resample import resample_image, target_shape
from stunet.types import Preprocessing


@dataclass(frozen=True)
class WindowOptions:
    """How the sliding window moves.

    Attributes:
        step: Largest distance between neighbouring windows as a fraction of the patch.
        batch: Windows per forward pass; more is faster on a GPU and changes only rounding.
        mirror_axes: Axes (0 z, 1 y, 2 x) over whose flips logits are averaged. None by default:
            2^n times the work, and wrong for weights trained without mirroring (left and right).
    """

    step: float = 0.5
    batch: int = 1
    mirror_axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Predictor:
    """Segments scans.

    Attributes:
        model: Maps (B, C, z, y, x) to logits (B, K, z, y, x); in evaluation mode, on `device`.
        preprocessing: What its training data went through.
        labels: Structure name to value, background included; values are output channels.
        device: Where the model lives.
        window: How the sliding window moves.
    """

    model: nn.Module
    preprocessing: Preprocessing
    labels: Mapping[str, int]
    device: str = "cpu"
    window: WindowOptions = WindowOptions()

    def predict_volume(self, volume: Volume) -> np.ndarray:
        """Return the label values (Z, Y, X) of a scan on its own RAS+ grid.

        Args:
            volume: As `stunet.io.volume.read_image` returns it, in physical units; channels in
                the order of the preprocessing.

        Returns:
            (Z, Y, X) uint8, uint16 above 256 classes.

        Raises:
            VolumeError: The number of channels is not the network's.
        """
        image_czyx = self._network_input(volume)
        logits_kzyx = sliding_window_logits(
            self.model,
            torch.from_numpy(image_czyx),
            self.preprocessing.patch_size,
            step=self.window.step,
            batch=self.window.batch,
            mirror_axes=self.window.mirror_axes,
            device=self.device,
        )
        return labels_on_grid(logits_kzyx, volume.shape_zyx)

    def predict_file(self, path: str | Path, out: str | Path) -> None:
        """Segment an image file or DICOM folder and write the labels in its exact geometry.

        Raises:
            VolumeError: The image cannot be read or has another number of channels.
        """
        volume = read_image(path)
        write_label(out, self.predict_volume(volume), like=volume, labels=self.labels)

    def _network_input(self, volume: Volume) -> np.ndarray:
        """Resample to the network's spacing, then normalise: float32 (C, z, y, x)."""
        channels = self.preprocessing.channels
        if len(volume.array) != len(channels):
            names = ", ".join(channel.name for channel in channels)
            raise VolumeError(
                f"{volume.source.path}: {len(volume.array)} channel(s), the network takes "
                f"{len(channels)} ({names}); give one file or 4D channel for each"
            )
        spacing = self.preprocessing.spacing_mm
        shape = target_shape(volume.shape_zyx, volume.spacing_mm, spacing)
        image_czyx = volume.array.astype(np.float32)
        resampled = resample_image(image_czyx, volume.spacing_mm, spacing, shape)
        return normalize(resampled, channels, statistics(resampled))
