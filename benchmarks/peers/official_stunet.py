"""STU-Net in plain torch, as its authors run it inside nnU-Net v2: the baseline of a training step.

Written anew from the published description (arXiv 2304.06716): up-sampling interpolates before its
convolution, all five heads are computed, every activation is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.inputs import random_label, random_logits
from benchmarks.peers.nnunet_loss import deep_supervision

SIZES = {"S": (16, 1), "B": (32, 1), "L": (64, 2), "H": (96, 3)}  # width, blocks per stage
STAGES = (1, 2, 4, 8, 16, 16)  # channels over width
HEADS = 5


class Block(nn.Module):
    """Two convolutions with instance normalisation and a shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(c_in, c_out, 3, stride, 1)
        self.norm1 = nn.InstanceNorm3d(c_out, affine=True)
        self.act1 = nn.LeakyReLU(inplace=True)
        self.conv2 = nn.Conv3d(c_out, c_out, 3, 1, 1)
        self.norm2 = nn.InstanceNorm3d(c_out, affine=True)
        self.act2 = nn.LeakyReLU(inplace=True)
        self.conv3 = nn.Conv3d(c_in, c_out, 1, stride) if project else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum."""
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        y += x if self.conv3 is None else self.conv3(x)
        return self.act2(y)


class Network(nn.Module):
    """The encoder-decoder with five outputs, full resolution first."""

    def __init__(self, width: int, depth: int, classes: int) -> None:
        super().__init__()
        channels = [width * factor for factor in STAGES]
        self.down = nn.ModuleList(
            _stage(c_in, c_out, 1 if level == 0 else 2, depth)
            for level, (c_in, c_out) in enumerate(pairwise([1, *channels]))
        )
        steps = list(pairwise(channels))[::-1]
        self.reduce = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in steps)
        self.up = nn.ModuleList(_stage(2 * fine, fine, 1, depth) for fine, _ in steps)
        self.heads = nn.ModuleList(nn.Conv3d(fine, classes, 1) for fine, _ in steps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return logits at five resolutions."""
        skips = []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        skips.pop()
        outputs = []
        for reduce, stage, head in zip(self.reduce, self.up, self.heads, strict=True):
            x = reduce(interpolate(x, scale_factor=2.0, mode="nearest"))
            x = stage(torch.cat((x, skips.pop()), 1))
            outputs.append(head(x))
        return outputs[::-1]


def _stage(c_in: int, c_out: int, stride: int, depth: int) -> nn.Sequential:
    rest = (Block(c_out, c_out, 1, False) for _ in range(depth - 1))
    return nn.Sequential(Block(c_in, c_out, stride, True), *rest)


def training_step(
    size: str, classes: int, side: int, batch: int, device: str
) -> Callable[[], None]:
    """Return a step of nnUNetTrainer: forward, loss, backward, clip, SGD; bf16 autocast on a GPU.

    The trainer itself autocasts to fp16 with a scaler, which costs the same or a little more.
    """
    torch.manual_seed(0)
    network = Network(*SIZES[size], classes).to(device)
    loss_function = deep_supervision(HEADS)
    optimizer = torch.optim.SGD(
        network.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
    )
    shape = (side,) * 3
    image = torch.from_numpy(random_logits(batch, shape))[:, None].to(device)
    label = np.stack([random_label(classes, shape, seed) for seed in range(batch)])
    full = torch.from_numpy(label).short()[:, None].to(device)
    targets = [full[..., :: 2**level, :: 2**level, :: 2**level] for level in range(HEADS)]
    autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def turn() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = loss_function(network(image), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()

    return turn
