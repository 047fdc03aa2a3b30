"""The body of nnU-Net's U-Nets: building blocks, decoder and forward pass, for any encoder.

Written from the definition of the architecture; attribute names give the state-dict keys of
nnU-Net v2, less those that name the same tensor a second time. Source: Isensee et al., nnU-Net,
Nature Methods 2021; package dynamic-network-architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from stunet.models.blocks import NEGATIVE_SLOPE
from stunet.models.deeply_supervised import DeeplySupervised, build
from stunet.models.spec import ModelConfig
from stunet.models.unet_shape import UNetShape
from stunet.models.unet_spec import unet_shape
from stunet.types import Size3


class ConvNorm(nn.Module):
    """Convolution, instance normalisation and, if activated, a leaky ReLU.

    Args:
        c_in: Channels in.
        c_out: Channels out.
        kernel: Odd edges, z y x; padded by half of it.
        stride: z y x.
        bias: Of the convolution.
        activated: Whether the leaky ReLU follows.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: Size3,
        stride: Size3 = (1, 1, 1),
        *,
        bias: bool = True,
        activated: bool = True,
    ) -> None:
        super().__init__()
        z, y, x = (edge // 2 for edge in kernel)
        self.conv = nn.Conv3d(c_in, c_out, kernel, stride, padding=(z, y, x), bias=bias)
        self.norm = nn.InstanceNorm3d(c_out, eps=1e-5, affine=True)
        self.activated = activated

    def forward(self, x_bcdhw: Tensor) -> Tensor:
        """(B, c_in, D, H, W) -> (B, c_out, D / stride, ...)."""
        y = self.norm(self.conv(x_bcdhw))
        return nn.functional.leaky_relu(y, NEGATIVE_SLOPE, inplace=True) if self.activated else y


class ConvStack(nn.Module):
    """Some `ConvNorm` in a row, the first of which may change channels and resolution."""

    def __init__(
        self, depth: int, c_in: int, c_out: int, kernel: Size3, stride: Size3 = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvNorm(c_in, c_out, kernel, stride),
            *(ConvNorm(c_out, c_out, kernel) for _ in range(depth - 1)),
        )

    def forward(self, x_bcdhw: Tensor) -> Tensor:
        """(B, c_in, D, H, W) -> (B, c_out, D / stride, ...)."""
        return self.convs(x_bcdhw)


class Decoder(nn.Module):
    """Transposed convolutions, stages and heads, coarsest first."""

    def __init__(self, shape: UNetShape, strides: tuple[Size3, ...], classes: int) -> None:
        super().__init__()
        up = list(zip(pairwise(shape.channels), strides, shape.kernels, strict=False))[::-1]
        self.transpconvs = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, stride, stride) for (fine, coarse), stride, _ in up
        )
        self.stages = nn.ModuleList(
            ConvStack(depth, 2 * fine, fine, kernel)
            for ((fine, _), _, kernel), depth in zip(up, shape.decoder_depth, strict=True)
        )
        self.seg_layers = nn.ModuleList(nn.Conv3d(fine, classes, 1) for (fine, _), _, _ in up)

    def forward(self, maps: list[Tensor]) -> Iterator[Tensor]:
        """The features of every stage from those of the encoder, which are used up."""
        x = maps.pop()
        for upsample, stage in zip(self.transpconvs, self.stages, strict=True):
            x = stage(torch.cat((upsample(x), maps.pop()), dim=1))
            yield x


class UNet(DeeplySupervised):
    """The network.

    Args:
        encoder: Maps (B, in_channels, D, H, W) to the features of all stages, finest first.
        config: The network.
        shape: Its stages.
    """

    def __init__(self, encoder: nn.Module, config: ModelConfig, shape: UNetShape) -> None:
        super().__init__(config.in_channels, config.strides, config.mirrored)
        self.encoder = encoder
        self.decoder = Decoder(shape, config.strides, config.classes)

    @property
    def heads(self) -> nn.ModuleList:
        """One per decoder stage, coarsest first."""
        return self.decoder.seg_layers

    def decode(self, image_bcdhw: Tensor) -> Iterator[Tensor]:
        """The features of the decoder stages, coarsest first."""
        return iter(self.decoder(self.encoder(image_bcdhw)))


def build_unet(
    encoder: Callable[[int, UNetShape, tuple[Size3, ...]], nn.Module],
    config: ModelConfig,
    seed: int,
) -> UNet:
    """Build a network around an encoder of `in_channels`, stages and strides; see `build`.

    Raises:
        ConfigError: As `stunet.models.unet_spec.unet_shape`.
    """
    shape = unet_shape(config)
    return build(
        lambda: UNet(encoder(config.in_channels, shape, config.strides), config, shape), seed
    )
