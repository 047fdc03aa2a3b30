"""The fused block of normalisation, shortcut and activation against plain torch."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import instance_norm, leaky_relu

SHAPES = [(2, 3, 4, 5, 6), (1, 2, 9, 17, 31), (3, 1, 1, 1, 2)]


def plain(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float, shortcut: Tensor | None
) -> Tensor:
    y = instance_norm(x, weight=weight, bias=bias, eps=eps)
    return leaky_relu(y if shortcut is None else y + shortcut, slope)


def inputs(shape: tuple[int, ...], add: bool, mean: float = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    made = [draw(*shape) * 3 + mean, draw(shape[1]), draw(shape[1])]
    return [*made, draw(*shape)] if add else made


def outcome(function, tensors: list[Tensor], upstream: Tensor) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    shortcut = leaves[3] if len(leaves) > 3 else None
    y = function(*leaves[:3], 1e-5, 0.01, shortcut)
    y.backward(upstream.to(y))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_equals_plain_torch(device: str, shape: tuple[int, ...], add: bool, mean: float) -> None:
    from stunet.kernels.norm_act import norm_act

    tensors = [tensor.to(device) for tensor in inputs(shape, add, mean)]
    upstream = inputs(shape, add)[0].to(device)
    ours = outcome(norm_act, tensors, upstream)
    theirs = outcome(plain, [tensor.double() for tensor in tensors], upstream)
    # A gradient is a small difference of large numbers; rounding is relative to those.
    for one, other in zip(ours, theirs, strict=True):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("add", [False, True])
def test_low_precision_is_computed_in_float32(device: str, add: bool) -> None:
    from stunet.kernels.norm_act import norm_act

    x, weight, bias, *shortcut = (t.to(device) for t in inputs((2, 3, 9, 16, 31), add))
    low = [x.bfloat16(), weight, bias, *(t.bfloat16() for t in shortcut)]
    upstream = inputs((2, 3, 9, 16, 31), False)[0].to(device).bfloat16()
    ours = outcome(norm_act, low, upstream)
    theirs = outcome(plain, [tensor.double() for tensor in low], upstream.double())
    assert [t.dtype for t in ours[:2]] == [torch.bfloat16] * 2 and ours[2].dtype == torch.float32
    for one, other in zip(ours, theirs, strict=True):
        error = (one.double() - other).abs().max() / other.abs().max()
        assert error < 2**-7


def test_other_memory_layouts(device: str) -> None:
    from stunet.kernels.norm_act import norm_act

    tensors = [tensor.to(device) for tensor in inputs((2, 4, 5, 6, 7), True)]
    upstream = inputs((2, 4, 5, 6, 7), False)[0].to(device)
    expected = outcome(norm_act, tensors, upstream)
    last = [t.contiguous(memory_format=torch.channels_last_3d) for t in (tensors[0], tensors[3])]
    turned = [last[0], tensors[1], tensors[2], last[1]]
    found = outcome(norm_act, turned, upstream.contiguous(memory_format=torch.channels_last_3d))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
