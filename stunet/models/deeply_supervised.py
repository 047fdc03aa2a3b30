"""What all our U-Nets do with the features of their decoder: one head per stage, one at inference.

How features come about is each network's own. Single-device: no file, no process group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from stunet.errors import ConfigError
from stunet.models.initialise import initialise
from stunet.models.spec import stage_shapes
from stunet.models.turn import turn_round
from stunet.types import Size3


class DeeplySupervised(nn.Module, ABC):
    """A network that returns logits of every decoder stage in training mode, otherwise of one.

    Args:
        in_channels: Image channels.
        strides: The down-sampling steps, finest first, z y x.
        mirrored: Axes (0 z, 1 y, 2 x) along which it was trained on reversed images.
    """

    def __init__(
        self, in_channels: int, strides: tuple[Size3, ...], mirrored: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.strides = strides
        self.mirrored = mirrored

    @property
    @abstractmethod
    def heads(self) -> nn.ModuleList:
        """The pointwise layers that give the logits of each decoder stage, coarsest first."""

    @abstractmethod
    def decode(self, image_bcdhw: Tensor) -> Iterator[Tensor]:
        """The features of the decoder stages, coarsest first, of an image turned as in training."""

    def forward(self, image_bcdhw: Tensor) -> Tensor | list[Tensor]:
        """Logits of an image.

        Args:
            image_bcdhw: (B, in_channels, D, H, W), each axis divisible by the product of strides.

        Returns:
            Training: a tensor (B, classes, d, h, w) per stride, full resolution first.
            Evaluation: the full-resolution one; the other heads are not computed.

        Raises:
            ConfigError: The image does not fit the channels or the strides.
        """
        if not self.training:
            return self.head(self.features(image_bcdhw))
        stages = zip(self.heads, self._stages(image_bcdhw), strict=True)
        return [head(x) for head, x in stages][::-1]

    def features(self, image_bcdhw: Tensor) -> Tensor:
        """(B, channels[0], D, H, W): what `head` turns into the logits at full resolution."""
        x = image_bcdhw
        for x in self._stages(image_bcdhw):  # noqa: B007 - the last one is wanted
            pass
        return x

    @property
    def head(self) -> nn.Conv3d:
        """The pointwise last layer at full resolution."""
        finest = self.heads[-1]
        assert isinstance(finest, nn.Conv3d)
        return finest

    def _stages(self, image_bcdhw: Tensor) -> Iterator[Tensor]:
        """The features of the decoder stages, as the image lies."""
        _, c, d, h, w = image_bcdhw.shape
        if c != self.in_channels:
            raise ConfigError(f"image has {c} channels, the network takes {self.in_channels}")
        stage_shapes((d, h, w), self.strides)
        for x in self.decode(turn_round(image_bcdhw, self.mirrored)):
            yield turn_round(x, self.mirrored)


Network = TypeVar("Network", bound=DeeplySupervised)


def build(make: Callable[[], Network], seed: int) -> Network:
    """Build and initialise a network on the current default device.

    Under `torch.device("meta")` it stays without storage, ready for
    `load_state_dict(..., assign=True)`. The global random state is not touched.
    """
    device = torch.get_default_device()
    with torch.device("meta"):  # skips the layers' own initialisation
        model = make()
    if device.type != "meta":
        model.to_empty(device=device)
        initialise(model, seed)
    return model
