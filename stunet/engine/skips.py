"""What is known of a skipped step: said in one line, and written down so that it can be replayed.

`skipped.jsonl` holds a row per skipped step: the reason, and of each of its patches the number, the
case, the loss of its micro-batch and all random draws.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stunet.engine import distributed
from stunet.engine.step import StepResult
from stunet.transforms.windows import WindowBatch
from stunet.types import Batch

SKIPPED = "skipped.jsonl"

DescribeSample = Callable[[int], Mapping[str, Any]]
"""(patch number) -> its draws as JSON values."""


def explain(
    step: int,
    result: StepResult,
    batches: Sequence[Batch | WindowBatch],
    describe: DescribeSample | None,
) -> tuple[str, dict[str, Any]]:
    """Return the reason in words and the row for `SKIPPED`; all ranks call it.

    Args:
        step: The step, counted from 1.
        result: What it did.
        batches: This rank's micro-batches.
        describe: Gives the draws; asked on rank 0 only.
    """
    samples = _gather_samples(result, batches)
    broken = [sample for sample in samples if not math.isfinite(sample["loss"])]
    highest = max(sample["loss"] for sample in samples)
    if broken:
        reason, suspects = "the loss is not finite", broken
    elif result.rejected:
        reason = f"the loss jumped to {highest:.3g}"
        suspects = [sample for sample in samples if sample["loss"] == highest]
    else:
        reason, suspects = "the gradient is not finite", samples
    for sample in samples:
        sample["loss"] = sample["loss"] if math.isfinite(sample["loss"]) else None
        if describe is not None and distributed.is_main():
            sample["draw"] = describe(sample["sample"])
    names = ", ".join(_name(sample) for sample in suspects)
    return f"{reason}; samples {names}", {"step": step, "reason": reason, "samples": samples}


def _gather_samples(
    result: StepResult, batches: Sequence[Batch | WindowBatch]
) -> list[dict[str, Any]]:
    """All patches of the step, in their order."""
    mine = [
        {"sample": sample, "case": case, "loss": loss}
        for batch, loss in zip(batches, result.losses.tolist(), strict=True)
        for sample, case in zip(
            batch.sample_ids, batch.case_ids or ("",) * len(batch.sample_ids), strict=True
        )
    ]
    texts = distributed.gather_text(json.dumps(mine))
    return [sample for text in texts for sample in json.loads(text)]


def _name(sample: Mapping[str, Any]) -> str:
    return f"{sample['sample']} ({sample['case']})" if sample["case"] else str(sample["sample"])
