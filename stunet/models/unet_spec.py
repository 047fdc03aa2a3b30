"""The U-Nets that nnU-Net plans, without building them: parameter counts and FLOPs.

Closed forms only, like `spec.py`. They have no size table: `ModelConfig.unet` says what they are,
and comes from a converted checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

from stunet.errors import ConfigError
from stunet.models.spec import Convolution, ModelConfig, ModelSpec, stage_shapes
from stunet.models.unet_shape import UNetShape
from stunet.types import Size3

Convolutions = Callable[[ModelConfig], Iterator[Convolution]]


def unet_shape(config: ModelConfig) -> UNetShape:
    """The stages of a config.

    Raises:
        ConfigError: It has none, or another number of strides than stages need.
    """
    if config.unet is None:
        raise ConfigError(f"model.unet: {config.name} needs it; start from a converted checkpoint")
    if len(config.strides) != len(config.unet.channels) - 1:
        raise ConfigError(
            f"model.strides: {len(config.unet.channels)} stages take one less, got "
            f"{len(config.strides)}"
        )
    return config.unet


def plain_conv_convolutions(config: ModelConfig) -> Iterator[Convolution]:
    """All convolutions of a PlainConvUNet.

    Raises:
        ConfigError: As `unet_shape`.
    """
    shape = unet_shape(config)
    c_in = config.in_channels
    for stage, c_out in enumerate(shape.channels):
        for _ in range(shape.encoder_depth[stage]):
            yield Convolution("encoder", stage, c_in, c_out, prod(shape.kernels[stage]), norm=True)
            c_in = c_out
    yield from _decoder(config, shape)


def residual_encoder_convolutions(config: ModelConfig) -> Iterator[Convolution]:
    """All convolutions of a ResidualEncoderUNet.

    Raises:
        ConfigError: As `unet_shape`.
    """
    shape = unet_shape(config)
    c_in = shape.channels[0]
    yield Convolution("encoder", 0, config.in_channels, c_in, prod(shape.kernels[0]), norm=True)
    for stage, c_out in enumerate(shape.channels):
        kernel = prod(shape.kernels[stage])
        for _ in range(shape.encoder_depth[stage]):
            yield Convolution("encoder", stage, c_in, c_out, kernel, norm=True)
            yield Convolution("encoder", stage, c_out, c_out, kernel, norm=True)
            if c_in != c_out:
                yield Convolution("encoder", stage, c_in, c_out, 1, norm=True, bias=False)
            c_in = c_out
    yield from _decoder(config, shape)


def _decoder(config: ModelConfig, shape: UNetShape) -> Iterator[Convolution]:
    for number, depth in enumerate(shape.decoder_depth):
        stage = len(shape.channels) - 2 - number
        c_out, kernel = shape.channels[stage], prod(shape.kernels[stage])
        # Transposed: each voxel of the coarser stage is spread over one block of the finer.
        step = prod(config.strides[stage])
        yield Convolution("upsampling", stage + 1, shape.channels[stage + 1], c_out, step)
        for i in range(depth):
            yield Convolution("decoder", stage, c_out if i else 2 * c_out, c_out, kernel, norm=True)
        yield Convolution("head", stage, c_out, config.classes, 1)


def _spec(name: str, builder: str, convolutions: Convolutions) -> ModelSpec:
    def parameter_count(config: ModelConfig) -> int:
        return sum(conv.parameters for conv in convolutions(config))

    def forward_flops(config: ModelConfig, patch_zyx: Size3) -> int:
        voxels = [prod(shape) for shape in stage_shapes(patch_zyx, config.strides)]
        return sum(conv.flops_per_voxel * voxels[conv.stage] for conv in convolutions(config))

    return ModelSpec(
        name=name,
        sizes={},
        builder=builder,
        parameter_count=parameter_count,
        forward_flops=forward_flops,
        parts={"encoder.": "encoder", "decoder.seg_layers.": "head", "decoder.": "decoder"},
    )


PLAIN_CONV_UNET = _spec(
    "plain_conv_unet",
    "stunet.models.plain_conv_unet:build_plain_conv_unet",
    plain_conv_convolutions,
)
RESIDUAL_ENCODER_UNET = _spec(
    "residual_encoder_unet",
    "stunet.models.residual_encoder_unet:build_residual_encoder_unet",
    residual_encoder_convolutions,
)
