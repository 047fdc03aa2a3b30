"""How many bytes of weights, gradients and optimiser state a rank holds, by ZeRO stage.

Closed forms, checked against the tensors that are really there in
`tests/distributed/test_elastic.py`. Not counted: activations, and the buffers that gradients and
weights pass through on their way (`parallel.MAX_BUCKET_ELEMENTS`).
"""

from __future__ import annotations

from typing import Literal

FP32 = 4  # bytes; weights are fp32 at every stage, bf16 is autocast


def model_state_bytes(
    elements: int,
    zero_stage: int,
    world: int,
    optimizer: Literal["sgd", "adamw"],
    averaged: bool = False,
) -> float:
    """Bytes per rank while the optimiser steps, which is when most of them are needed.

    Args:
        elements: Trained parameters of the model.
        zero_stage: 0 to 3.
        world: Ranks.
        optimizer: Momentum takes one number per parameter, the moments of AdamW two.
        averaged: Whether a moving average is kept (`optim.ema_decay`).

    Source: Rajbhandari et al. 2020, arXiv:1910.02054, section 5, with what DeepSpeed 0.19.8 adds
    when weights are fp32: from stage 1 the optimiser steps on a copy of its share of the weights,
    stage 1 shares out gradients as stage 2 does, and stage 3 holds its share of them twice.

    >>> [model_state_bytes(1000, stage, 4, "sgd") for stage in (0, 1, 2, 3)]
    [12000.0, 7000.0, 7000.0, 5000.0]
    """
    moments = {"sgd": 1, "adamw": 2}[optimizer]
    weights, gradients, copy = 1, 1, 1
    if zero_stage == 0:
        each, shared = weights + gradients + moments, 0
    elif zero_stage < 3:
        each, shared = weights, gradients + copy + moments
    else:
        each, shared = 0, weights + 2 * gradients + copy + moments
    if averaged:
        shared += 1
    return FP32 * elements * (each + shared / world)
