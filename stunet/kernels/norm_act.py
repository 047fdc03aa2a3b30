"""Instance normalisation, a sum with a shortcut and a leaky ReLU in two passes over memory.

In plain torch, as `stunet.models.blocks` has it for CPUs, these are three operations and, with
their gradients, 16 reads and writes of a feature map (13 without a shortcut); here 12 (8). Kept
for the gradient are the input and, with a shortcut, the output, which the next convolution keeps
anyway; all else is computed again.

Feature maps are contiguous, a row is one channel of one sample. Means are kept as differences from
a row's first value, so that a large mean costs no digits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2048  # voxels that a program holds at once
_ENOUGH_PROGRAMS = 1024  # to fill a GPU of 132 multiprocessors several times


def norm_act(
    x_bcdhw: Tensor,
    weight_c: Tensor,
    bias_c: Tensor,
    eps: float,
    slope: float,
    shortcut_bcdhw: Tensor | None = None,
) -> Tensor:
    """`leaky_relu(instance_norm(x) + shortcut)`, computed in float32.

    Args:
        x_bcdhw: float32, bfloat16 or float16.
        weight_c: Scale of the normalisation.
        bias_c: Shift of the normalisation.
        eps: Added to the variance.
        slope: Of the leaky ReLU, above 0.
        shortcut_bcdhw: Added before the activation.

    Returns:
        Shape and type of x, contiguous.
    """
    assert slope > 0, "the gradient takes the sign of the sum from the output"
    return _NormAct.apply(x_bcdhw, weight_c, bias_c, shortcut_bcdhw, eps, slope)


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shortcut: Tensor | None,
        eps: float,
        slope: float,
    ) -> Tensor:
        x = x.contiguous()
        shortcut = None if shortcut is None else shortcut.contiguous()
        rows, length, splits = _layout(x)
        sums = x.new_empty((rows, splits, 2), dtype=torch.float32)
        _sum_values[(rows, splits)](x, sums, length, SPLITS=splits, BLOCK=BLOCK)
        y = torch.empty_like(x)
        statistics = x.new_empty((rows, 2), dtype=torch.float32)
        _normalise[(rows, triton.cdiv(length, BLOCK))](
            x, shortcut, weight, bias, sums, statistics, y, length, x.shape[1], eps, slope,
            ADD=shortcut is not None, SPLITS=splits, BLOCK=BLOCK,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, statistics, None if shortcut is None else y)
        ctx.slope = slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics, y = ctx.saved_tensors
        upstream = grad_outputs[0].contiguous()
        rows, length, splits = _layout(x)
        sums = x.new_empty((rows, splits, 2), dtype=torch.float32)
        common = (x, y, upstream, weight, bias, statistics, sums)
        options = {"ADD": y is not None, "SPLITS": splits, "BLOCK": BLOCK}
        _sum_gradients[(rows, splits)](*common, length, x.shape[1], ctx.slope, **options)
        x_gradient = torch.empty_like(x)
        shortcut_gradient = None if y is None else torch.empty_like(y)
        _normalise_gradient[(rows, triton.cdiv(length, BLOCK))](
            *common, x_gradient, shortcut_gradient, length, x.shape[1], ctx.slope, **options
        )
        bias_gradient, weight_gradient = sums.view(*x.shape[:2], splits, 2).sum((0, 2)).unbind(1)
        return (
            x_gradient,
            weight_gradient.to(weight.dtype),
            bias_gradient.to(bias.dtype),
            shortcut_gradient,
            None,
            None,
        )


def _layout(x_bcdhw: Tensor) -> tuple[int, int, int]:
    """Rows, their length, and the number of programs (a power of two) that share the sum of one."""
    rows = x_bcdhw.shape[0] * x_bcdhw.shape[1]
    length = x_bcdhw[0, 0].numel()
    wanted = min(triton.cdiv(_ENOUGH_PROGRAMS, rows), triton.cdiv(length, BLOCK), 64)
    return rows, length, triton.next_power_of_2(wanted)


@triton.jit
def _sum_values(x_ptr, sums_ptr, length, SPLITS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of a part of a row: the sum of the differences from its first value, and of their squares."""
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    x_ptr += row * length
    first_value = tl.load(x_ptr).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(split * BLOCK, length, SPLITS * BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + at, mask=at < length, other=0).to(tl.float32)
        difference = tl.where(at < length, x - first_value, 0)
        total += difference
        squares += difference * difference
    sums_ptr += (row * SPLITS + split) * 2
    tl.store(sums_ptr, tl.sum(total, 0))
    tl.store(sums_ptr + 1, tl.sum(squares, 0))


@triton.jit
def _row_means(sums_ptr, row, length, SPLITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The means over a row of the two numbers that were summed by its programs."""
    parts = sums_ptr + row * SPLITS * 2 + tl.arange(0, SPLITS) * 2
    return tl.sum(tl.load(parts), 0) / length, tl.sum(tl.load(parts + 1), 0) / length


@triton.jit
def _normalise(  # type: ignore[no-untyped-def]
    x_ptr, shortcut_ptr, weight_ptr, bias_ptr, sums_ptr, statistics_ptr, y_ptr,
    length, channels, eps, slope,
    ADD: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    difference, square = _row_means(sums_ptr, row, length, SPLITS)
    first_value = tl.load(x_ptr + row * length).to(tl.float32)
    inverse_std = 1 / tl.sqrt(tl.maximum(square - difference * difference, 0) + eps)
    if tl.program_id(1) == 0:
        tl.store(statistics_ptr + row * 2, difference)
        tl.store(statistics_ptr + row * 2 + 1, inverse_std)
    weight = tl.load(weight_ptr + row % channels).to(tl.float32)
    bias = tl.load(bias_ptr + row % channels).to(tl.float32)
    x = tl.load(x_ptr + row * length + at, mask=inside, other=0).to(tl.float32)
    y = (x - first_value - difference) * inverse_std * weight + bias
    if ADD:
        y += tl.load(shortcut_ptr + row * length + at, mask=inside, other=0).to(tl.float32)
    tl.store(y_ptr + row * length + at, tl.where(y > 0, y, y * slope), mask=inside)


@triton.jit
def _before_activation(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, upstream_ptr, weight_ptr, bias_ptr, statistics_ptr,
    row, at, length, channels, slope, ADD: tl.constexpr,
):  # fmt: skip
    """The normalised value, and the gradient that arrives before the activation; 0 outside."""
    inside = at < length
    first_value = tl.load(x_ptr + row * length).to(tl.float32)
    difference = tl.load(statistics_ptr + row * 2)
    inverse_std = tl.load(statistics_ptr + row * 2 + 1)
    x = tl.load(x_ptr + row * length + at, mask=inside, other=0).to(tl.float32)
    normalised = (x - first_value - difference) * inverse_std
    if ADD:
        y = tl.load(y_ptr + row * length + at, mask=inside, other=0).to(tl.float32)
    else:
        weight = tl.load(weight_ptr + row % channels).to(tl.float32)
        y = normalised * weight + tl.load(bias_ptr + row % channels).to(tl.float32)
    upstream = tl.load(upstream_ptr + row * length + at, mask=inside, other=0).to(tl.float32)
    return normalised, tl.where(y > 0, upstream, upstream * slope)


@triton.jit
def _sum_gradients(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, upstream_ptr, weight_ptr, bias_ptr, statistics_ptr, sums_ptr,
    length, channels, slope,
    ADD: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a part of a row: what it adds to the gradient of the bias and of the weight."""
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    total = tl.zeros([BLOCK], tl.float32)
    product = tl.zeros([BLOCK], tl.float32)
    for start in range(split * BLOCK, length, SPLITS * BLOCK):
        at = start + tl.arange(0, BLOCK)
        normalised, gradient = _before_activation(
            x_ptr, y_ptr, upstream_ptr, weight_ptr, bias_ptr, statistics_ptr,
            row, at, length, channels, slope, ADD,
        )  # fmt: skip
        total += gradient
        product += gradient * normalised
    sums_ptr += (row * SPLITS + split) * 2
    tl.store(sums_ptr, tl.sum(total, 0))
    tl.store(sums_ptr + 1, tl.sum(product, 0))


@triton.jit
def _normalise_gradient(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, upstream_ptr, weight_ptr, bias_ptr, statistics_ptr, sums_ptr,
    x_gradient_ptr, shortcut_gradient_ptr, length, channels, slope,
    ADD: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """With g the gradient before the activation and n the normalised value, the input's gradient is
    weight / std * (g - mean(g) - n mean(g n)), the shortcut's is g.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    normalised, gradient = _before_activation(
        x_ptr, y_ptr, upstream_ptr, weight_ptr, bias_ptr, statistics_ptr,
        row, at, length, channels, slope, ADD,
    )  # fmt: skip
    mean_gradient, mean_product = _row_means(sums_ptr, row, length, SPLITS)
    inverse_std = tl.load(statistics_ptr + row * 2 + 1)
    scale = tl.load(weight_ptr + row % channels).to(tl.float32) * inverse_std
    x_gradient = scale * (gradient - mean_gradient - normalised * mean_product)
    tl.store(x_gradient_ptr + row * length + at, x_gradient, mask=inside)
    if ADD:
        tl.store(shortcut_gradient_ptr + row * length + at, gradient, mask=inside)
