"""ResidualEncoderUNet, the network of nnU-Net's ResEnc presets: a residual encoder.

Source: Isensee et al., nnU-Net Revisited, arXiv 2404.09556; blocks of ResNet-D (He et al., Bag of
tricks, CVPR 2019). Single-device: no file, no process group.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

from stunet.models.blocks import NEGATIVE_SLOPE
from stunet.models.spec import ModelConfig
from stunet.models.unet import ConvNorm, ConvStack, UNet, build_unet
from stunet.models.unet_shape import UNetShape
from stunet.types import Size3


class ResidualBlockD(nn.Module):
    """Two convolutions added to a shortcut, then activated.

    Where the resolution changes, the shortcut is averaged over the stride; where the channels
    change, a normalised pointwise convolution follows.
    """

    def __init__(self, c_in: int, c_out: int, kernel: Size3, stride: Size3) -> None:
        super().__init__()
        self.conv1 = ConvNorm(c_in, c_out, kernel, stride)
        self.conv2 = ConvNorm(c_out, c_out, kernel, activated=False)
        shortcut: list[nn.Module] = []
        if max(stride) > 1:
            shortcut.append(nn.AvgPool3d(stride, stride))
        if c_in != c_out:
            shortcut.append(ConvNorm(c_in, c_out, (1, 1, 1), bias=False, activated=False))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, x_bcdhw: Tensor) -> Tensor:
        """(B, c_in, D, H, W) -> (B, c_out, D / stride, ...)."""
        y = self.conv2(self.conv1(x_bcdhw)) + self.skip(x_bcdhw)
        return nn.functional.leaky_relu(y, NEGATIVE_SLOPE, inplace=True)


class ResidualEncoder(nn.Module):
    """A stem at full resolution, then residual blocks; the first of a stage goes down."""

    def __init__(self, in_channels: int, shape: UNetShape, strides: tuple[Size3, ...]) -> None:
        super().__init__()
        first = shape.channels[0]
        self.stem = ConvStack(1, in_channels, first, shape.kernels[0])
        stages = zip(
            shape.encoder_depth,
            pairwise((first, *shape.channels)),
            shape.kernels,
            ((1, 1, 1), *strides),
            strict=True,
        )
        self.stages = nn.Sequential(*(_stage(*stage) for stage in stages))

    def forward(self, image_bcdhw: Tensor) -> list[Tensor]:
        """The features of all stages, finest first."""
        maps = [self.stem(image_bcdhw)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def _stage(depth: int, channels: tuple[int, int], kernel: Size3, stride: Size3) -> nn.Sequential:
    c_in, c_out = channels
    blocks = [ResidualBlockD(c_in, c_out, kernel, stride)]
    blocks += [ResidualBlockD(c_out, c_out, kernel, (1, 1, 1)) for _ in range(depth - 1)]
    return nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks)))


def build_residual_encoder_unet(config: ModelConfig, seed: int) -> UNet:
    """Build the network; as `stunet.models.unet.build_unet`.

    Each block starts as its shortcut: the scale of its second normalisation is zero.
    """
    model = build_unet(ResidualEncoder, config, seed)
    for module in model.modules():
        if isinstance(module, ResidualBlockD):
            nn.init.zeros_(module.conv2.norm.weight)
    return model
