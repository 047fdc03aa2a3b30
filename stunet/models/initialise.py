"""Initial weights, as in the first release of STU-Net (the nnU-Net v1 trainer).

Not PyTorch's defaults, which the later nnU-Net v2 port of STU-Net fell back to.
"""

from __future__ import annotations

import torch
from torch import nn

from stunet.models.blocks import NEGATIVE_SLOPE


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Set convolutions to Kaiming-normal (fan in) with zero bias, normalisations to identity.

    Values are drawn in float32 on the CPU in the order of the modules, so they do not depend on
    the device; and since the heads come last, not on the number of classes.

    Args:
        model: A network with storage; changed in place.
        seed: Seed of the one generator that all draws come from.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            weight = torch.empty(module.weight.shape, dtype=torch.float32, device="cpu")
            nn.init.kaiming_normal_(weight, a=NEGATIVE_SLOPE, generator=generator)
            module.weight.copy_(weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.InstanceNorm3d) and module.affine:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
