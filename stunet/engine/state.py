"""What must survive a crash, beside weights and optimiser state, as one listed record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class TrainState:
    """Where a run stands. The sampler needs no more than `seed` and `step` to go on.

    Attributes:
        seed: Of the data stream; a run cannot be continued under another one.
        config_hash: Of the complete configuration that the run was started with.
        world: Ranks that trained last.
        zero_stage: ZeRO stage that trained last.
        step: Optimiser steps taken, skipped ones included.
        samples_seen: Patches consumed by all ranks together.
        skipped_steps: Steps whose loss or gradient was not finite, or whose loss was a spike.
        skipped_in_a_row: Those among them since the last good step.
        recent_losses: Of the last good steps, oldest first: what a spike is told by. A list (from
            JSON) becomes a tuple.
    """

    seed: int
    config_hash: str
    world: int = 1
    zero_stage: int = 0
    step: int = 0
    samples_seen: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    recent_losses: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "recent_losses", tuple(self.recent_losses))

    def to_json(self) -> dict[str, Any]:
        """As plain values; `TrainState(**values)` gives the record back."""
        return asdict(self)

    def after_good_step(self, samples: int, loss: float, window: int) -> TrainState:
        """The state one optimiser step later; the last `window` losses are remembered."""
        return replace(
            self,
            step=self.step + 1,
            samples_seen=self.samples_seen + samples,
            skipped_in_a_row=0,
            recent_losses=(*self.recent_losses, loss)[-window:],
        )

    def after_skipped_step(self, samples: int) -> TrainState:
        """The state one optimiser step later, which left the weights as they were."""
        return replace(
            self,
            step=self.step + 1,
            samples_seen=self.samples_seen + samples,
            skipped_steps=self.skipped_steps + 1,
            skipped_in_a_row=self.skipped_in_a_row + 1,
        )
