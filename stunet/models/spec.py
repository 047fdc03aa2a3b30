"""What a network is, without building it: options, sizes, parameter counts and FLOPs.

Closed forms only, so that `stunet models` and recipe checks answer without importing torch. The
network itself is `stunet/models/stunet.py`, which takes its channels and depth from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from stunet.errors import ConfigError
from stunet.models.unet_shape import UNetShape
from stunet.types import Size3

ISOTROPIC_STRIDES: tuple[Size3, ...] = ((2, 2, 2),) * 5
# A step's work: the backward pass computes two products for each of the forward pass.
STEP_OVER_FORWARD = 3

Part = Literal["encoder", "decoder", "head"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything needed to rebuild a network; travels with its weights.

    Strides have no default because weights do not reveal them: a checkpoint loads silently under
    the wrong ones and then labels a tenth of the voxels differently.

    Attributes:
        name: A key of `stunet.registry.MODELS`.
        size: A key of that model's size table.
        in_channels: Image channels.
        classes: Output channels: one per label value, background included, or one per region.
        strides: Down-sampling per step, finest first, z y x. Lists (from JSON) become tuples.
        unet: Stages of the networks that nnU-Net plans; STU-Net derives its own from `size`.
        mirrored: Axes (0 z, 1 y, 2 x) along which the network was trained on reversed images: it
            turns its input round before, and what comes out after.
    """

    name: str = "stunet"
    size: str = "S"
    in_channels: int
    classes: int
    strides: tuple[Size3, ...]
    unet: UNetShape | None = None
    mirrored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        strides = tuple(tuple(step) for step in self.strides)
        object.__setattr__(self, "strides", strides)
        object.__setattr__(self, "mirrored", tuple(self.mirrored))
        if isinstance(self.unet, Mapping):  # from JSON
            object.__setattr__(self, "unet", UNetShape(**self.unet))
        if not set(self.mirrored) <= {0, 1, 2}:
            raise ConfigError(f"model.mirrored: {self.mirrored} must be of the axes 0, 1 and 2")
        if self.in_channels < 1:
            raise ConfigError(f"model.in_channels: {self.in_channels} is below 1")
        if self.classes < 1:
            raise ConfigError(f"model.classes: {self.classes} is below 1")
        if any(len(step) != 3 or min(step) < 1 for step in strides):
            raise ConfigError(f"model.strides: {strides} must be triples (z, y, x) of 1 or more")


@dataclass(frozen=True)
class ModelSize:
    """One row of a size table: channels of the first stage and residual blocks per stage."""

    width: int
    depth: int


@dataclass(frozen=True)
class ModelSpec:
    """A network the registry knows.

    Attributes:
        name: Its key in the registry.
        sizes: Size name to width and depth, smallest first.
        builder: `module:function`, called with a `ModelConfig` and a seed; imports torch.
        parameter_count: Learnable numbers of a config.
        forward_flops: FLOPs of one training forward pass of one patch (z y x), 2 per multiply-add.
        parts: Beginning of a weight's name to the part it belongs to; the first that fits counts.
            Where a number follows, it is the stage within the part, in the order of the forward
            pass.
    """

    name: str
    sizes: Mapping[str, ModelSize]
    builder: str
    parameter_count: Callable[[ModelConfig], int]
    forward_flops: Callable[[ModelConfig, Size3], int]
    parts: Mapping[str, Part] = field(default_factory=dict)


# STU-Net -----------------------------------------------------------------------------------------
# Source: Huang et al., arXiv 2304.06716, and the authors' released code, whose depth counts the
# down-sampling block of a stage as one of its blocks. XS is ours: it trains on a laptop's CPU.

STUNET_SIZES = {
    "XS": ModelSize(width=8, depth=1),
    "S": ModelSize(width=16, depth=1),
    "B": ModelSize(width=32, depth=1),
    "L": ModelSize(width=64, depth=2),
    "H": ModelSize(width=96, depth=3),
}
STUNET_STEPS = 5
_WIDTH_MULTIPLIERS = (1, 2, 4, 8, 16, 16)


def stunet_size(config: ModelConfig) -> ModelSize:
    """The size row of a config.

    Raises:
        ConfigError: The size is unknown, or there are not five strides.
    """
    if config.size not in STUNET_SIZES:
        known = ", ".join(STUNET_SIZES)
        raise ConfigError(f"model.size: '{config.size}' is unknown; choose one of {known}")
    if len(config.strides) != STUNET_STEPS:
        raise ConfigError(
            f"model.strides: STU-Net takes {STUNET_STEPS}, got {len(config.strides)}; drop the "
            "coarsest or append (1, 1, 1)"
        )
    return STUNET_SIZES[config.size]


def stage_channels(width: int) -> tuple[int, ...]:
    """Channels of the six resolution stages, finest first."""
    return tuple(width * multiplier for multiplier in _WIDTH_MULTIPLIERS)


def stage_shapes(shape_zyx: Size3, strides: tuple[Size3, ...]) -> tuple[Size3, ...]:
    """Feature-map sizes from the input down to the coarsest stage.

    >>> stage_shapes((64, 64, 64), ((2, 2, 2), (1, 2, 2)))
    ((64, 64, 64), (32, 32, 32), (32, 16, 16))

    Raises:
        ConfigError: The input is not divisible by the product of the strides, or so small that the
            coarsest stage holds a single voxel, where instance normalisation is undefined.
    """
    divisor = tuple(prod(step[axis] for step in strides) for axis in range(3))
    if any(size < 1 or size % by for size, by in zip(shape_zyx, divisor, strict=True)):
        raise ConfigError(
            f"patch {tuple(shape_zyx)} is not divisible by {divisor}, the product of the strides; "
            "choose multiples of it"
        )
    if tuple(shape_zyx) == divisor:
        raise ConfigError(
            f"patch {tuple(shape_zyx)} with strides {strides} leaves one voxel at the coarsest "
            "stage, too few for instance normalisation; double an axis of the patch"
        )
    z, y, x = shape_zyx
    shapes = [(z, y, x)]
    for step in strides:
        z, y, x = z // step[0], y // step[1], x // step[2]
        shapes.append((z, y, x))
    return tuple(shapes)


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network; `stage` is the resolution it computes at, 0 the finest."""

    part: Literal["encoder", "upsampling", "decoder", "head"]
    stage: int
    c_in: int
    c_out: int
    kernel_voxels: int
    norm: bool = False
    bias: bool = True

    @property
    def parameters(self) -> int:
        """Weights, bias, and scale and shift of the normalisation behind it."""
        weights_and_bias = (self.c_in * self.kernel_voxels + self.bias) * self.c_out
        return weights_and_bias + (2 * self.c_out if self.norm else 0)

    @property
    def flops_per_voxel(self) -> int:
        """2 per multiply-add; the bias is not counted."""
        return 2 * self.c_in * self.c_out * self.kernel_voxels


def stunet_convolutions(config: ModelConfig) -> Iterator[Convolution]:
    """All convolutions of a network in the order of its state dict.

    Raises:
        ConfigError: As `stunet_size`.
    """
    size = stunet_size(config)
    channels = stage_channels(size.width)
    c_in = config.in_channels
    for stage, c_out in enumerate(channels):
        yield from _stage("encoder", stage, c_in, c_out, size.depth)
        c_in = c_out
    for stage in reversed(range(STUNET_STEPS)):
        # Before the interpolation, hence at the coarser stage: see blocks.Upsample.
        yield Convolution("upsampling", stage + 1, channels[stage + 1], channels[stage], 1)
    for stage in reversed(range(STUNET_STEPS)):
        yield from _stage("decoder", stage, 2 * channels[stage], channels[stage], size.depth)
    for stage in reversed(range(STUNET_STEPS)):
        yield Convolution("head", stage, channels[stage], config.classes, 1)


def _stage(
    part: Literal["encoder", "decoder"], stage: int, c_in: int, c_out: int, depth: int
) -> Iterator[Convolution]:
    for block in range(depth):
        yield Convolution(part, stage, c_out if block else c_in, c_out, 27, norm=True)
        yield Convolution(part, stage, c_out, c_out, 27, norm=True)
        if block == 0:
            yield Convolution(part, stage, c_in, c_out, 1)


def stunet_parameter_count(config: ModelConfig) -> int:
    """Learnable parameters, all five heads included."""
    return sum(conv.parameters for conv in stunet_convolutions(config))


def stunet_forward_flops(config: ModelConfig, patch_zyx: Size3) -> int:
    """FLOPs of the convolutions of one training forward pass of one patch, five heads included.

    The published figures are multiply-adds (half of this) with the 1x1x1 convolutions after the
    interpolation instead of before it, which costs about 1% more.

    Raises:
        ConfigError: As `stunet_size` and `stage_shapes`.
    """
    voxels = [prod(shape) for shape in stage_shapes(patch_zyx, config.strides)]
    return sum(conv.flops_per_voxel * voxels[conv.stage] for conv in stunet_convolutions(config))


STUNET = ModelSpec(
    name="stunet",
    sizes=STUNET_SIZES,
    builder="stunet.models.stunet:build_stunet",
    parameter_count=stunet_parameter_count,
    forward_flops=stunet_forward_flops,
    parts={
        "conv_blocks_context.": "encoder",
        "upsample_layers.": "decoder",
        "conv_blocks_localization.": "decoder",
        "seg_outputs.": "head",
    },
)
