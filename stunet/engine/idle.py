"""Weights that a loss never reaches: they are taken out of training, where they would only decay.

Plain torch leaves a weight without a gradient alone; ZeRO fills its gradient with zeros, which
weight decay turns into a slow shrinking. What wants no gradient is treated alike everywhere.
"""

from __future__ import annotations

from torch import nn

from stunet.losses.deep_supervision import deep_supervision_weights

HEADS = ("seg_outputs", "decoder.seg_layers")  # in the networks of the registry, coarsest first


def freeze_idle_heads(model: nn.Module) -> None:
    """Freeze those heads whose outputs have weight 0 in the loss."""
    modules = dict(model.named_modules())
    heads = [head for name in HEADS if name in modules for head in modules[name].children()][::-1]
    for head, weight in zip(heads, deep_supervision_weights(len(heads)), strict=True):
        if weight == 0:
            head.requires_grad_(False)
