"""PlainConvUNet, the network of nnU-Net's default plans: stages of plain convolutions.

Source: Isensee et al., nnU-Net, Nature Methods 2021. Single-device: no file, no process group.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from stunet.models.spec import ModelConfig
from stunet.models.unet import ConvStack, UNet, build_unet
from stunet.models.unet_shape import UNetShape
from stunet.types import Size3


class PlainConvEncoder(nn.Module):
    """One stack of convolutions per stage; its first one goes down."""

    def __init__(self, in_channels: int, shape: UNetShape, strides: tuple[Size3, ...]) -> None:
        super().__init__()
        stages = zip(
            shape.encoder_depth,
            pairwise((in_channels, *shape.channels)),
            shape.kernels,
            ((1, 1, 1), *strides),
            strict=True,
        )
        self.stages = nn.Sequential(
            *(
                nn.Sequential(ConvStack(depth, c_in, c_out, kernel, stride))
                for depth, (c_in, c_out), kernel, stride in stages
            )
        )

    def forward(self, image_bcdhw: Tensor) -> list[Tensor]:
        """The features of all stages, finest first."""
        maps = [image_bcdhw]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def build_plain_conv_unet(config: ModelConfig, seed: int) -> UNet:
    """Build the network; as `stunet.models.unet.build_unet`."""
    return build_unet(PlainConvEncoder, config, seed)
