"""The feature maps of one training step of STU-Net: forward pass, loss, backward pass.

It follows `stunet/models/stunet.py` and `stunet.losses` with sizes in place of tensors; see
`stunet/models/ledger.py`. What is there beside feature maps is the caller's (`cost.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from stunet.models.ledger import BF16, BlockMaps, Computing, Ledger
from stunet.models.spec import (
    STUNET_STEPS,
    ModelConfig,
    stage_channels,
    stage_shapes,
    stunet_size,
)
from stunet.types import Size3

SLABS = 6 << 20  # bytes that `stunet.losses.slabs` needs: a few slabs of 2**18 numbers


@dataclass(frozen=True)
class Walk:
    """What came of a walk through a step; all but `kept` include what was there before.

    Attributes:
        kept: Bytes of feature maps and logits between the forward and the backward pass.
        forward_peak: The most until then.
        backward_peak: The most after.
        logits: Bytes of the logits; they stay until the next forward pass has its own.
    """

    kept: int
    forward_peak: int
    backward_peak: int
    logits: int


def walk(
    network: ModelConfig, patch_zyx: Size3, how: Computing, before: int, gradient_bytes: float
) -> Walk:
    """Forward pass, loss and backward pass of one micro-batch.

    Args:
        network: STU-Net's options.
        patch_zyx: Voxels.
        how: How it is computed.
        before: Bytes that are there before.
        gradient_bytes: Bytes that the gradient of a weight adds.

    Raises:
        ConfigError: As `stunet_size` and `stage_shapes`.
    """
    maps = _Maps(network, patch_zyx, how)
    ledger = Ledger(before)
    # Autocast keeps a copy of each weight until the forward pass ends, autograd until it is used.
    cast = BF16 if how.precision == "bf16" else 0
    ledger.take(cast * maps.weights)
    maps.forward(ledger)
    if how.recompute == "block":
        ledger.give(cast * maps.weights)
        cast = 0
    kept, forward_peak, ledger.peak = ledger.now - before, ledger.peak, ledger.now
    maps.backward(ledger, gradient_bytes - cast)
    return Walk(kept, forward_peak, ledger.peak, sum(maps.logits))


class _Maps:
    """The blocks, up-samplings and heads of a network, and the bytes of their maps."""

    def __init__(self, network: ModelConfig, patch_zyx: Size3, how: Computing) -> None:
        size = stunet_size(network)
        self._how = how
        self._channels = stage_channels(size.width)
        self._shapes = stage_shapes(patch_zyx, network.strides)
        before = (network.in_channels, *self._channels)
        finer = (self._shapes[0], *self._shapes)
        self._encoder = [
            self._stage(size.depth, before[stage], stage, finer[stage], stem=stage == 0)
            for stage in range(STUNET_STEPS + 1)
        ]
        self._decoder = [
            self._stage(size.depth, 2 * self._channels[stage], stage, self._shapes[stage])
            for stage in range(STUNET_STEPS)
        ]
        self.logits = [how.maps(network.classes, shape) for shape in self._shapes[:-1]]

    @property
    def weights(self) -> int:
        """Numbers of the weights of all blocks; the few of up-samplings and heads do not count."""
        return sum(block.weight for stage in self._encoder + self._decoder for block in stage)

    def forward(self, ledger: Ledger) -> None:
        """Take what the backward pass needs, and the logits."""
        for stage in self._encoder:
            for block in stage:
                block.forward(ledger)
        for number in reversed(range(STUNET_STEPS)):
            joined = self._decoder[number][0].x
            ledger.pass_by(joined // 2 + self._before_upsampling(number))
            ledger.pass_by(joined // 2 + joined)  # up-sampled, and joined with the skip
            ledger.take(joined)
            for block in self._decoder[number]:
                block.forward(ledger)
            ledger.take(self.logits[number])

    def backward(self, ledger: Ledger, weight_bytes: float) -> None:
        """Give back all but the logits; each weight adds `weight_bytes`.

        The gradient of what a decoder stage gets is one tensor, of which the skip's half is a view:
        it lives until the encoder stage has it.
        """
        *trained, _ = self.logits  # the coarsest does not count in the loss
        ledger.take(sum(trained))
        ledger.pass_by(SLABS)
        for number in range(STUNET_STEPS):
            fine = self._decoder[number][-1].y
            ledger.pass_by(fine + self._how.pointwise_scratch(fine))  # gradient of the head
            if number == 0:  # elsewhere it is added to the gradient from the finer stage
                ledger.take(fine)
            if number < len(trained):
                ledger.give(trained[number])
            self._stage_backward(ledger, self._decoder[number], weight_bytes)
            joined = self._decoder[number][0].x
            ledger.give(joined)
            coarser = self._encoder[number + 1][-1].y
            ledger.pass_by(joined // 2 + self._before_upsampling(number))
            ledger.pass_by(self._before_upsampling(number) + 2 * coarser)
            ledger.take(coarser)
        for number in reversed(range(STUNET_STEPS + 1)):
            if number < STUNET_STEPS:  # gradients from the skip and from the next stage
                ledger.take(self._encoder[number][-1].y)
                ledger.give(self._decoder[number][0].x + self._encoder[number + 1][0].x)
            self._stage_backward(ledger, self._encoder[number], weight_bytes)

    def _stage_backward(self, ledger: Ledger, stage: list[BlockMaps], weight_bytes: float) -> None:
        for block in reversed(stage):
            block.backward(ledger)
            ledger.take(round(weight_bytes * block.weight))

    def _stage(
        self, depth: int, c_in: int, stage: int, shape_in: Size3, stem: bool = False
    ) -> list[BlockMaps]:
        """One block that changes channels and resolution, then identity blocks."""
        c_out, shape = self._channels[stage], self._shapes[stage]
        first = BlockMaps(self._how, c_in, c_out, shape_in, shape, project=True, stem=stem)
        return [first] + [
            BlockMaps(self._how, c_out, c_out, shape, shape, project=False)
            for _ in range(depth - 1)
        ]

    def _before_upsampling(self, number: int) -> int:
        """What the 1x1x1 convolution of an up-sampling returns, at the coarser stage."""
        return self._how.maps(self._channels[number], self._shapes[number + 1])
