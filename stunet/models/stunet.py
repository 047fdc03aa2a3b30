"""STU-Net: a residual 3D U-Net with six stages, scaled by one width and one depth.

Source: Huang et al., "STU-Net", arXiv 2304.06716, and the authors' code; the state-dict keys are
those of the released checkpoints. Single-device: no file, no process group, no training loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from stunet.errors import ConfigError
from stunet.models.blocks import ResidualBlock, Upsample
from stunet.models.initialise import initialise
from stunet.models.spec import ModelConfig, stage_channels, stage_shapes, stunet_size
from stunet.models.turn import turn_round
from stunet.types import Size3


class STUNet(nn.Module):
    """The network. In training mode it returns logits at five resolutions, otherwise at one.

    Args:
        channels: Channels of the six stages, finest first.
        depth: Residual blocks per encoder stage and per decoder stage.
        in_channels: Image channels.
        classes: Output channels, background included.
        strides: The five down-sampling steps, finest first, z y x.
        mirrored: Axes (0 z, 1 y, 2 x) along which it was trained on reversed images.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        depth: int,
        in_channels: int,
        classes: int,
        strides: tuple[Size3, ...],
        mirrored: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.strides = strides
        self.mirrored = mirrored
        down = zip(pairwise((in_channels, *channels)), ((1, 1, 1), *strides), strict=True)
        up = tuple(zip(pairwise(channels), strides, strict=True))[::-1]  # deepest first
        self.conv_blocks_context = nn.ModuleList(
            _stage(c_in, c_out, stride, depth) for (c_in, c_out), stride in down
        )
        self.upsample_layers = nn.ModuleList(
            Upsample(coarse, fine, stride) for (fine, coarse), stride in up
        )
        self.conv_blocks_localization = nn.ModuleList(
            _stage(2 * fine, fine, (1, 1, 1), depth) for (fine, _), _ in up
        )
        self.seg_outputs = nn.ModuleList(nn.Conv3d(fine, classes, 1) for (fine, _), _ in up)

    def forward(self, image_bcdhw: Tensor) -> Tensor | list[Tensor]:
        """Logits of an image.

        Args:
            image_bcdhw: (B, in_channels, D, H, W), each axis divisible by the product of strides.

        Returns:
            Training: five tensors (B, classes, d, h, w), full resolution first.
            Evaluation: the full-resolution one; the other heads are not computed.

        Raises:
            ConfigError: The image does not fit the channels or the strides.
        """
        if not self.training:
            return self.head(self.features(image_bcdhw))
        stages = zip(self.seg_outputs, self._decode(image_bcdhw), strict=True)
        return [head(x) for head, x in stages][::-1]

    def features(self, image_bcdhw: Tensor) -> Tensor:
        """(B, channels[0], D, H, W): what `head` turns into the logits at full resolution."""
        x = image_bcdhw
        for x in self._decode(image_bcdhw):  # noqa: B007 - the last one is wanted
            pass
        return x

    @property
    def head(self) -> nn.Conv3d:
        """The pointwise last layer at full resolution."""
        finest = self.seg_outputs[-1]
        assert isinstance(finest, nn.Conv3d)
        return finest

    def _decode(self, image_bcdhw: Tensor) -> Iterator[Tensor]:
        """The features of the five decoder stages, coarsest first."""
        self._check(image_bcdhw)
        skips = []
        x = turn_round(image_bcdhw, self.mirrored)
        for stage in self.conv_blocks_context:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for upsample, stage in zip(
            self.upsample_layers, self.conv_blocks_localization, strict=True
        ):
            x = stage(torch.cat((upsample(x), skips.pop()), dim=1))
            yield turn_round(x, self.mirrored)

    def _check(self, image_bcdhw: Tensor) -> None:
        _, c, d, h, w = image_bcdhw.shape
        if c != self.in_channels:
            raise ConfigError(f"image has {c} channels, the network takes {self.in_channels}")
        stage_shapes((d, h, w), self.strides)


def _stage(c_in: int, c_out: int, stride: Size3, depth: int) -> nn.Sequential:
    """One projecting block that changes channels and resolution, then identity blocks."""
    return nn.Sequential(
        ResidualBlock(c_in, c_out, stride, project=True),
        *(ResidualBlock(c_out, c_out, (1, 1, 1), project=False) for _ in range(depth - 1)),
    )


def build_stunet(config: ModelConfig, seed: int) -> STUNet:
    """Build and initialise a network on the current default device.

    Under `torch.device("meta")` it stays without storage, ready for
    `load_state_dict(..., assign=True)`. The global random state is not touched.

    Raises:
        ConfigError: As `stunet.models.spec.stunet_size`.
    """
    size = stunet_size(config)
    device = torch.get_default_device()
    with torch.device("meta"):  # skips the layers' own initialisation
        model = STUNet(
            stage_channels(size.width),
            size.depth,
            config.in_channels,
            config.classes,
            config.strides,
            config.mirrored,
        )
    if device.type != "meta":
        model.to_empty(device=device)
        initialise(model, seed)
    return model
