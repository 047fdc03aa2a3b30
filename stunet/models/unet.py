"""The body of nnU-Net's U-Nets: building blocks, decoder and forward pass, for any encoder.

Written from the definition of the architecture; attribute names give the state-dict keys of
nnU-Net v2, less those that name the same tensor a second time. Source: Isensee et al., nnU-Net,
Nature Methods 2021; package dynamic-network-architectures.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from stunet.errors import ConfigError
from stunet.models.blocks import NEGATIVE_SLOPE
from stunet.models.initialise import initialise
from stunet.models.spec import ModelConfig, stage_shapes
from stunet.models.turn import turn_round
from stunet.models.unet_shape import UNetShape
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


class UNet(nn.Module):
    """The network. In training mode it returns logits at every decoder stage, otherwise at one.

    Args:
        encoder: Maps (B, in_channels, D, H, W) to the features of all stages, finest first.
        config: The network.
        shape: Its stages.
    """

    def __init__(self, encoder: nn.Module, config: ModelConfig, shape: UNetShape) -> None:
        super().__init__()
        self.in_channels = config.in_channels
        self.strides = config.strides
        self.mirrored = config.mirrored
        self.encoder = encoder
        self.decoder = Decoder(shape, config.strides, config.classes)

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
        stages = zip(self.decoder.seg_layers, self._decode(image_bcdhw), strict=True)
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
        finest = self.decoder.seg_layers[-1]
        assert isinstance(finest, nn.Conv3d)
        return finest

    def _decode(self, image_bcdhw: Tensor) -> Iterator[Tensor]:
        """The features of the decoder stages, coarsest first."""
        _, c, d, h, w = image_bcdhw.shape
        if c != self.in_channels:
            raise ConfigError(f"image has {c} channels, the network takes {self.in_channels}")
        stage_shapes((d, h, w), self.strides)
        for x in self.decoder(self.encoder(turn_round(image_bcdhw, self.mirrored))):
            yield turn_round(x, self.mirrored)


def materialise(model: UNet, device: torch.device, seed: int) -> UNet:
    """Give a network that was made without storage its initial weights, unless it is to stay so."""
    if device.type != "meta":
        model.to_empty(device=device)
        initialise(model, seed)
    return model
