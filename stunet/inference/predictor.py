"""A network with what it needs to be used right: a scan in, labels on the scan's own grid out.

Nothing of training is needed here. A ready one comes from `stunet.load(bundle)`. What is written
besides a label file, and for many scans, is the business of `outputs` and of `stunet predict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from stunet.errors import ConfigError, VolumeError
from stunet.inference.crop import region_of
from stunet.inference.segment import segment
from stunet.inference.sliding_window import WindowOptions
from stunet.inference.sweep import Network, Progress
from stunet.io.volume import Volume, combine_channels, read_image, volume_of_array, write_label
from stunet.transforms.normalize import normalize, statistics
from stunet.transforms.resample import resample_image, target_shape
from stunet.types import ChannelStatistics, Preprocessing, Region, Size3, Spacing

__all__ = ["Predictor", "WindowOptions", "Wish"]


@runtime_checkable
class Headed(Protocol):
    """A network whose logits are a pointwise linear layer on its features."""

    head: nn.Conv3d

    def features(self, image_bcdhw: Tensor) -> Tensor:
        """What `head` turns into logits."""
        ...


@dataclass(frozen=True)
class Wish:
    """What is wanted of a scan.

    Attributes:
        classes: Structures to keep; None keeps all. The others become background.
        coarse: None looks at all of the scan. A number looks for the structures first, with
            windows that do not overlap, at this multiple of the network's spacing, and then only
            at the box around them: outside of it nothing is found. 1 is safe for any network; what
            more it can stand must be tried.
    """

    classes: tuple[str, ...] | None = None
    coarse: float | None = None


@dataclass(frozen=True)
class Predictor:
    """Segments scans.

    Attributes:
        model: Maps (B, C, z, y, x) to logits (B, K, z, y, x); in evaluation mode, on `device`.
        preprocessing: What its training data went through.
        labels: Structure name to value, background included; values are output channels unless
            there are regions.
        device: Where the model lives.
        window: How the sliding window moves.
        regions: What the outputs are where they may overlap: they are painted into a label map.
    """

    model: nn.Module
    preprocessing: Preprocessing
    labels: Mapping[str, int]
    device: str = "cpu"
    window: WindowOptions = field(default_factory=WindowOptions)
    regions: tuple[Region, ...] = ()

    def predict_volume(
        self, volume: Volume, wish: Wish | None = None, on_window: Progress | None = None
    ) -> np.ndarray:
        """Return the label values (Z, Y, X) of a scan on its own RAS+ grid.

        Args:
            volume: As `stunet.io.volume.read_image` returns it, in physical units; channels in
                the order of the preprocessing.
            wish: What to look for; everything without.
            on_window: Called with windows done and windows in all, for each pass.

        Returns:
            (Z, Y, X) uint8, uint16 where a label can be above 255.

        Raises:
            VolumeError: The number of channels is not the network's, or it gives NaN.
            ConfigError: The wish names no structure of the network.
        """
        wish = wish or Wish()
        kept = self.kept(wish.classes)
        self._check_channels(volume)
        resampled = self._resampled(volume, self.preprocessing.spacing_mm)
        whole = statistics(resampled)
        region = None
        if wish.coarse is not None:
            found = self._coarse(volume, wish.coarse, whole, on_window)
            region = region_of(
                np.isin(found, [value for value in kept.values() if value]),
                _shape(resampled),
                self.preprocessing.spacing_mm,
                self.preprocessing.patch_size,
            )
            if region is None:
                return np.zeros(volume.shape_zyx, found.dtype)
        image_czyx = normalize(resampled, self.preprocessing.channels, whole)
        del resampled
        label_zyx = segment(
            self._network(),
            torch.from_numpy(image_czyx),
            self.preprocessing.patch_size,
            volume.shape_zyx,
            self.window,
            region,
            on_window,
        )
        return label_zyx if wish.classes is None else _only(label_zyx, kept.values())

    def predict_array(
        self, array: np.ndarray, affine: np.ndarray, wish: Wish | None = None
    ) -> np.ndarray:
        """Return the label values of an array as nibabel gives it.

        Args:
            array: (X, Y, Z) or (X, Y, Z, C) along any axes of the body, in physical units.
            affine: (4, 4), voxel index `(i, j, k, 1)` to RAS+ mm.
            wish: What to look for; everything without.

        Returns:
            (X, Y, Z) uint8 or uint16 as there, along the axes of the array.

        Raises:
            VolumeError: Array or affine cannot be used, or as `predict_volume`.
        """
        volume = volume_of_array(array, affine)
        label_zyx = self.predict_volume(volume, wish)
        stored_kji = volume.source.orientation.to_stored(label_zyx[None])[0]
        return np.ascontiguousarray(stored_kji.transpose(2, 1, 0))

    def predict_file(
        self,
        path: str | Path | Sequence[str | Path],
        out: str | Path,
        wish: Wish | None = None,
        on_window: Progress | None = None,
    ) -> None:
        """Segment an image file or DICOM folder and write the labels in its exact geometry.

        Args:
            path: The scan; several files where each holds a channel.
            out: The label file to write, with the names of the labels in its header.
            wish: What to look for; everything without.
            on_window: As in `predict_volume`.

        Raises:
            VolumeError: The image cannot be read or has another number of channels.
        """
        volume = read_channels([path] if isinstance(path, str | Path) else path)
        wish = wish or Wish()
        label_zyx = self.predict_volume(volume, wish, on_window)
        write_label(out, label_zyx, like=volume, labels=self.kept(wish.classes))

    def kept(self, classes: Sequence[str] | None) -> dict[str, int]:
        """The labels of some structures, background included, under the network's values.

        Raises:
            ConfigError: A name is not a structure of the network.
        """
        for name in classes or ():
            if name not in self.labels:
                known = ", ".join(name for name, value in self.labels.items() if value)
                raise ConfigError(f"class {name!r}: is no structure of the network; it has {known}")
        return {
            name: value
            for name, value in self.labels.items()
            if classes is None or value == 0 or name in classes
        }

    def _network(self) -> Network:
        """With its head apart where features are fewer than classes: see `Network`."""
        paints = tuple(region.paints for region in self.regions)
        if isinstance(self.model, Headed):
            head = self.model.head
            if head.in_channels < head.out_channels:
                return Network(self.model.features, head, self.device, paints)
        return Network(self.model, device=self.device, paints=paints)

    def _coarse(
        self,
        volume: Volume,
        factor: float,
        whole: tuple[ChannelStatistics, ...],
        on_window: Progress | None,
    ) -> np.ndarray:
        """Labels on a coarse grid; normalised like the fine one, so that its values are those."""
        if not factor >= 1:
            raise ConfigError(f"coarse {factor}: is a multiple of the spacing; give 1 or more")
        z, y, x = (side * factor for side in self.preprocessing.spacing_mm)
        image_czyx = normalize(
            self._resampled(volume, (z, y, x)), self.preprocessing.channels, whole
        )
        return segment(
            self._network(),
            torch.from_numpy(image_czyx),
            self.preprocessing.patch_size,
            options=WindowOptions(step=1.0, batch=self.window.batch),
            on_window=on_window,
        )

    def _resampled(self, volume: Volume, spacing_mm: Spacing) -> np.ndarray:
        shape = target_shape(volume.shape_zyx, volume.spacing_mm, spacing_mm)
        return resample_image(volume.array, volume.spacing_mm, spacing_mm, shape)

    def _check_channels(self, volume: Volume) -> None:
        channels = self.preprocessing.channels
        if len(volume.array) != len(channels):
            names = ", ".join(channel.name for channel in channels)
            raise VolumeError(
                f"{volume.source.path}: {len(volume.array)} channel(s), the network takes "
                f"{len(channels)} ({names}); give one file or 4D channel for each"
            )


def read_channels(paths: Sequence[str | Path]) -> Volume:
    """Read a scan whose channels lie in one file or in several of one grid.

    Raises:
        VolumeError: A file cannot be read, or lies on another grid than the first.
    """
    volumes = [read_image(path) for path in paths]
    return volumes[0] if len(volumes) == 1 else combine_channels(volumes)


def _shape(image_czyx: np.ndarray) -> Size3:
    _, z, y, x = image_czyx.shape
    return z, y, x


def _only(label_zyx: np.ndarray, values: Iterable[int]) -> np.ndarray:
    table = np.zeros(int(np.iinfo(label_zyx.dtype).max) + 1, label_zyx.dtype)
    for value in values:
        table[value] = value
    return table[label_zyx]
