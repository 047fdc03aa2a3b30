"""Which network a state dict belongs to, and what it takes to rebuild it.

The weights decide which network it is: a plan of nnU-Net names its own network even where STU-Net's
trainer put another in its place. What weights do not tell, above all strides, the plan must.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stunet.convert.axes import Axes
from stunet.convert.plan import Plan
from stunet.errors import CheckpointError
from stunet.models.spec import STUNET_SIZES, STUNET_STEPS, ModelConfig
from stunet.models.unet_shape import UNetShape

STUNET_STEM = "conv_blocks_context.0.0.conv1.weight"
PLAIN_STEM = "encoder.stages.0.0.convs.0.conv.weight"
RESIDUAL_STEM = "encoder.stem.convs.0.conv.weight"
GENERIC_UNET = "conv_blocks_context.0.blocks.0.conv.weight"  # nnU-Net v1's own network
SIZE = "planned"  # of networks that have no size table

# Options of nnU-Net's networks that change what they compute, and the one value that ours have.
OPTIONS: dict[str, Sequence[Any]] = {
    "conv_op": ("torch.nn.modules.conv.Conv3d",),
    "conv_bias": (True,),
    "norm_op": ("torch.nn.modules.instancenorm.InstanceNorm3d",),
    "norm_op_kwargs": ({"eps": 1e-5, "affine": True},),
    "dropout_op": (None,),
    "nonlin": ("torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"),
    "nonlin_kwargs": ({"inplace": True}, {"inplace": True, "negative_slope": 0.01}),
    "nonlin_first": (False,),
    "block": ("dynamic_network_architectures.building_blocks.residual.BasicBlockD",),
    "bottleneck_channels": (None,),
    "stem_channels": (None,),
    "dropout_op_kwargs": (None, {}),
}
_SHAPE_OPTIONS = {
    "class",
    "n_stages",
    "features_per_stage",
    "kernel_sizes",
    "strides",
    "n_conv_per_stage",
    "n_blocks_per_stage",
    "n_conv_per_stage_decoder",
    "num_pool_per_axis",
    "deep_supervision",
}


def identify(
    weights: Mapping[str, Tensor], plan: Plan, axes: Axes, place: str
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the network, along our axes, and its own tensors.

    Args:
        weights: By the names of the checkpoint.
        plan: What they were trained by.
        axes: How the network's axes lie in ours.
        place: Of the checkpoint, for messages.

    Raises:
        CheckpointError: It is none of the networks known here, or differs from them in a way that
            they have no option for.
    """
    if STUNET_STEM in weights:
        config, kept = _stunet(weights, plan, axes, place), dict(weights)
    elif PLAIN_STEM in weights or RESIDUAL_STEM in weights:
        kept = _without_duplicates(weights, place)
        config = _unet(kept, plan, axes, place)
    elif GENERIC_UNET in weights:
        raise CheckpointError(
            f"convert {place}: is a Generic_UNet of nnU-Net v1, which is not supported; STU-Net "
            "and the networks of nnU-Net v2 are"
        )
    else:
        first = ", ".join(list(weights)[:3])
        raise CheckpointError(
            f"convert {place}: is neither STU-Net nor PlainConvUNet nor ResidualEncoderUNet; its "
            f"first tensors are {first}"
        )
    return config, {name: axes.of_weight(tensor) for name, tensor in kept.items()}


def _stunet(weights: Mapping[str, Tensor], plan: Plan, axes: Axes, place: str) -> ModelConfig:
    stem = weights[STUNET_STEM]
    width = stem.shape[0]
    depth = sum(
        re.fullmatch(r"conv_blocks_context\.0\.\d+\.conv1\.weight", n) is not None for n in weights
    )
    size = next((n for n, s in STUNET_SIZES.items() if (s.width, s.depth) == (width, depth)), None)
    if size is None:
        raise CheckpointError(
            f"convert {place}: is an STU-Net of width {width} and depth {depth}; known are "
            + ", ".join(f"{n} ({s.width}, {s.depth})" for n, s in STUNET_SIZES.items())
        )
    # As STU-Net's trainers do with plans of another depth.
    steps = (*plan.strides[:STUNET_STEPS], *((1, 1, 1),) * (STUNET_STEPS - len(plan.strides)))
    return ModelConfig(
        name="stunet",
        size=size,
        in_channels=stem.shape[1],
        classes=_classes(weights, f"seg_outputs.{STUNET_STEPS - 1}.weight", place),
        strides=tuple(axes.of_triple(step) for step in steps),
        mirrored=axes.mirrored,
    )


def _unet(weights: Mapping[str, Tensor], plan: Plan, axes: Axes, place: str) -> ModelConfig:
    residual = RESIDUAL_STEM in weights
    options = plan.architecture
    wanted = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    if options.get("class") != wanted:
        raise CheckpointError(
            f"convert {place}: holds a {wanted}, the plan describes "
            f"{options.get('class', 'no network')}; give its own plan by --plans"
        )
    _check_options(options, place)
    try:
        shape = UNetShape(
            channels=options["features_per_stage"],
            kernels=tuple(axes.of_triple(tuple(kernel)) for kernel in options["kernel_sizes"]),
            encoder_depth=options["n_blocks_per_stage" if residual else "n_conv_per_stage"],
            decoder_depth=options["n_conv_per_stage_decoder"],
        )
    except KeyError as error:
        raise CheckpointError(
            f"convert {place}: the plan of its network has no {error}; give --plans"
        ) from None
    return ModelConfig(
        name="residual_encoder_unet" if residual else "plain_conv_unet",
        size=SIZE,
        in_channels=weights[RESIDUAL_STEM if residual else PLAIN_STEM].shape[1],
        classes=_classes(weights, f"decoder.seg_layers.{len(plan.strides) - 1}.weight", place),
        strides=tuple(axes.of_triple(step) for step in plan.strides),
        unet=shape,
        mirrored=axes.mirrored,
    )


def _check_options(options: Mapping[str, Any], place: str) -> None:
    for name, value in options.items():
        if name in _SHAPE_OPTIONS:
            continue
        if value not in OPTIONS.get(name, ()):
            raise CheckpointError(
                f"convert {place}: the plan's network has {name} {value!r}, which the networks "
                "here do not"
            )


def _without_duplicates(weights: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """Drop what nnU-Net stores a second time: the decoder's encoder, `all_modules` of a block."""
    kept = {}
    for name, tensor in weights.items():
        first = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
        first = re.sub(r"\.all_modules\.0\.", ".conv.", first)
        first = re.sub(r"\.all_modules\.1\.", ".norm.", first)
        if first == name:
            kept[name] = tensor
        elif first not in weights or not torch.equal(weights[first], tensor):
            raise CheckpointError(f"convert {place}: {name} is not equal to {first}, its twin")
    return kept


def _classes(weights: Mapping[str, Tensor], head: str, place: str) -> int:
    if head not in weights:
        raise CheckpointError(
            f"convert {place}: has no {head}, the head that the plan's strides lead to: these are "
            "not the strides the weights were trained with"
        )
    return weights[head].shape[0]
