"""STU-Net: a residual 3D U-Net with six stages, scaled by one width and one depth.

Source: Huang et al., "STU-Net", arXiv 2304.06716, and the authors' code; the state-dict keys are
those of the released checkpoints. Single-device: no file, no process group, no training loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from stunet.models.blocks import ResidualBlock, Upsample
from stunet.models.deeply_supervised import DeeplySupervised, build
from stunet.models.spec import ModelConfig, stage_channels, stunet_size
from stunet.types import Size3


class STUNet(DeeplySupervised):
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
        super().__init__(in_channels, strides, mirrored)
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

    @property
    def heads(self) -> nn.ModuleList:
        """One per decoder stage, coarsest first."""
        return self.seg_outputs

    def decode(self, image_bcdhw: Tensor) -> Iterator[Tensor]:
        """The features of the five decoder stages, coarsest first."""
        skips = []
        x = image_bcdhw
        for stage in self.conv_blocks_context:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for upsample, stage in zip(
            self.upsample_layers, self.conv_blocks_localization, strict=True
        ):
            x = stage(torch.cat((upsample(x), skips.pop()), dim=1))
            yield x


def _stage(c_in: int, c_out: int, stride: Size3, depth: int) -> nn.Sequential:
    """One projecting block that changes channels and resolution, then identity blocks."""
    return nn.Sequential(
        ResidualBlock(c_in, c_out, stride, project=True),
        *(ResidualBlock(c_out, c_out, (1, 1, 1), project=False) for _ in range(depth - 1)),
    )


def build_stunet(config: ModelConfig, seed: int) -> STUNet:
    """Build the network; as `stunet.models.deeply_supervised.build`.

    Raises:
        ConfigError: As `stunet.models.spec.stunet_size`.
    """
    size = stunet_size(config)
    return build(
        lambda: STUNet(
            stage_channels(size.width),
            size.depth,
            config.in_channels,
            config.classes,
            config.strides,
            config.mirrored,
        ),
        seed,
    )
