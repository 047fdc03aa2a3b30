"""The feature maps of a residual block, taken and given back in the order in which torch does.

A replay with sizes in place of tensors: what autograd keeps of each operation, what the backward
pass adds and frees, what an operation needs beside its result. Arithmetic only, no torch. It
follows `stunet/models/blocks.py` line by line; `stunet/models/walk.py` puts blocks together.

The rules of CPUs were read from a profile of torch 2.13 and are tested against one. Those of GPUs
follow from what the operations save; the scratch memory of cuDNN is an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

from stunet.types import Size3

FP32, BF16 = 4, 2  # bytes
KERNEL = 27  # voxels of a 3x3x3 kernel
ONEDNN_LEAST = 20480  # B C D H of the input, from which torch hands a batch of one to oneDNN


class Ledger:
    """Bytes in use, and the most that ever were.

    Attributes:
        now: In use.
        peak: The most so far.
    """

    def __init__(self, now: int) -> None:
        self.now = self.peak = now

    def take(self, size: int) -> None:
        """Memory that stays until it is given back."""
        self.now += size
        self.peak = max(self.peak, self.now)

    def give(self, size: int) -> None:
        """Memory that is free again."""
        self.now -= size

    def pass_by(self, size: int) -> None:
        """Memory of one moment."""
        self.peak = max(self.peak, self.now + size)


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How a network is computed: what decides which feature maps there are.

    Attributes:
        micro_batch: Patches of a pass.
        precision: As in `ParallelConfig`.
        recompute: As in `SpeedConfig`.
        device: Where.
        threads: Of a CPU; torch hands pointwise convolutions to oneDNN only if there are several.
    """

    micro_batch: int
    precision: Literal["fp32", "bf16"] = "bf16"
    recompute: Literal["none", "block"] = "none"
    device: Literal["cpu", "cuda"] = "cuda"
    threads: int = 1

    @property
    def number(self) -> int:
        """Bytes of a number of a feature map."""
        return BF16 if self.precision == "bf16" else FP32

    def maps(self, channels: int, shape_zyx: Size3) -> int:
        """Bytes of so many feature maps of each patch."""
        return self.number * self.micro_batch * channels * prod(shape_zyx)

    def pointwise_scratch(self, x: int) -> int:
        """What the gradient of a 1x1x1 convolution's input needs beside it."""
        return x if self.device == "cuda" or self.threads == 1 else 0


@dataclass(frozen=True)
class BlockMaps:
    """A residual block and the bytes of its maps.

    Attributes:
        how: See there.
        c_in: Channels of its input.
        c_out: Channels of its output.
        shape_in: Of the input, z y x.
        shape: Of the output.
        project: Whether its shortcut is a convolution.
        stem: Whether its input is the image, which wants no gradient.
    """

    how: Computing
    c_in: int
    c_out: int
    shape_in: Size3
    shape: Size3
    project: bool
    stem: bool = False

    @cached_property
    def x(self) -> int:
        """Bytes of the input."""
        return self.how.maps(self.c_in, self.shape_in)

    @cached_property
    def y(self) -> int:
        """Bytes of the output and of each map between."""
        return self.how.maps(self.c_out, self.shape)

    @cached_property
    def copy(self) -> int:
        """The input handed to the first convolution: on a CPU a copy with channels last."""
        if self.how.device == "cpu":
            return self.x if self.c_in > 1 else 0
        return self.x if self.stem and self.how.precision == "bf16" else 0

    @cached_property
    def kept(self) -> int:
        """What the backward pass needs beside input and output."""
        return self.copy + (4 if self.how.device == "cpu" else 3) * self.y

    @cached_property
    def weight(self) -> int:
        """Numbers of the weights."""
        first, second = (KERNEL * c * self.c_out for c in (self.c_in, self.c_out))
        return first + second + (self.c_in * self.c_out if self.project else 0)

    def _scratch(self, c_in: int, shape_in: Size3, x: int) -> int:
        """What a 3x3x3 convolution needs on the way."""
        if self.how.device == "cuda":
            return x + self.y  # assumed: cuDNN reorders both to channels last
        if _onednn(self.how, c_in, shape_in):
            return 0
        return self.how.maps(KERNEL * c_in, self.shape)

    @cached_property
    def scratch1(self) -> int:
        """What the first convolution needs on the way."""
        return self._scratch(self.c_in, self.shape_in, self.x)

    @cached_property
    def scratch2(self) -> int:
        """What the second convolution needs on the way."""
        return self._scratch(self.c_out, self.shape, self.y)

    @cached_property
    def _copied(self) -> int:
        """What a normalisation has beside its input and result while it works, on a CPU."""
        onednn = self.how.device == "cpu" and _onednn(self.how, self.c_out, self.shape)
        return self.y if onednn else 0  # the output of the convolution, channels last

    def forward(self, ledger: Ledger) -> None:
        """Take the output and, if they are kept, the maps between."""
        if self.how.recompute == "none":
            self._forward_kept(ledger)
        else:
            sums = 4 if self.how.device == "cpu" else 3
            ledger.pass_by(max(self.copy + self.y + self.scratch1, 3 * self.y + self.scratch2))
            ledger.pass_by(sums * self.y)
            ledger.take(self.y)

    def _forward_kept(self, ledger: Ledger) -> None:
        ledger.take(self.copy)
        ledger.pass_by(self.y + self.scratch1)
        ledger.take(2 * self.y)  # first convolution, normalised and activated
        ledger.pass_by(self._copied)
        second = self.kept - self.copy - 3 * self.y  # on a CPU the next input, channels last
        ledger.take(second)
        ledger.pass_by(self.y + self.scratch2)
        ledger.take(2 * self.y)  # second convolution, and the output
        ledger.pass_by(self._copied + (self.y if self.project else 0))

    def backward(self, ledger: Ledger) -> None:
        """From the output and its gradient to the gradient of the input; both of the former go."""
        if self.how.recompute == "block":
            ledger.give(self.y)  # held as what came next had it for an input
            self._forward_kept(ledger)
        self._activation(ledger)  # its gradient goes to the shortcut too
        ledger.take(self.y)
        ledger.give(self.y)  # input of the normalisation
        x_gradient = 0 if self.stem else self.x
        if self.project:
            ledger.take(x_gradient)
            ledger.pass_by(self.how.pointwise_scratch(self.x))
            ledger.give(self.y)  # gradient of the shortcut
        on_cpu = self.how.device == "cpu"
        turned = self.y if on_cpu else 0  # a gradient, channels last
        ledger.pass_by(self.y + max(turned, self.scratch2))
        ledger.give(self.y if on_cpu else 0)  # the input, channels last
        self._activation(ledger)
        ledger.take(self.y)
        ledger.give(2 * self.y)  # input of the normalisation, gradient of its output
        ledger.pass_by(x_gradient + max(turned, self.scratch1))
        ledger.take(x_gradient)
        ledger.give(self.y + self.copy)
        if not self.stem:
            ledger.give(self.x)  # two gradients of the input become one

    def _activation(self, ledger: Ledger) -> None:
        """Leaky ReLU: the gradient of its output becomes that of its input, the output goes."""
        ledger.pass_by(self.y)
        ledger.give(self.y)


def _onednn(how: Computing, c_in: int, shape_in: Size3) -> bool:
    """Whether torch hands a 3x3x3 convolution of a CPU to oneDNN, else it writes out columns.

    Source: `ConvParams::use_mkldnn` in torch's Convolution.cpp.
    """
    if how.precision == "bf16" or how.micro_batch > 1:
        return True
    return c_in * shape_in[0] * shape_in[1] > ONEDNN_LEAST
