"""What nnU-Net plans of a U-Net besides its strides: widths, kernels and depths of its stages.

Closed forms on it are in `unet_spec.py`; it imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from stunet.errors import ConfigError
from stunet.types import Size3


@dataclass(frozen=True)
class UNetShape:
    """Stages of a U-Net, finest first; lists (from JSON) become tuples.

    Attributes:
        channels: Of each stage.
        kernels: Of the convolutions of each stage, z y x, odd.
        encoder_depth: Convolutions (plain) or residual blocks per encoder stage.
        decoder_depth: Convolutions per decoder stage, coarsest first; one less than stages.

    Raises:
        ConfigError: The parts do not fit each other.
    """

    channels: tuple[int, ...]
    kernels: tuple[Size3, ...]
    encoder_depth: tuple[int, ...]
    decoder_depth: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("channels", "encoder_depth", "decoder_depth"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "kernels", tuple(tuple(kernel) for kernel in self.kernels))
        stages = len(self.channels)
        counts = (len(self.kernels), len(self.encoder_depth), len(self.decoder_depth) + 1)
        if stages < 2 or any(count != stages for count in counts):
            raise ConfigError(
                f"model.unet: {stages} channels, {counts[0]} kernels, {counts[1]} encoder and "
                f"{counts[2] - 1} decoder depths; give 2 stages or more and one decoder depth less"
            )
        numbers = (*self.channels, *self.encoder_depth, *self.decoder_depth)
        odd = all(len(kernel) == 3 and all(k % 2 for k in kernel) for kernel in self.kernels)
        if min(numbers) < 1 or not odd:
            raise ConfigError(
                f"model.unet: {self} needs numbers of 1 or more and kernels of three odd edges"
            )
