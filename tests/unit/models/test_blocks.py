from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from stunet.models.blocks import Upsample, _convolve, _normalise


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_upsampling_commutes_with_its_convolution() -> None:
    upsample = Upsample(6, 3, (2, 1, 3)).double()
    x = noise(2, 6, 3, 4, 5)
    interpolated_first = upsample.conv(interpolate(x, scale_factor=(2, 1, 3), mode="nearest"))
    torch.testing.assert_close(upsample(x), interpolated_first, rtol=1e-12, atol=1e-12)


def test_cpu_kernels_equal_the_plain_layers() -> None:
    """Networks on a GPU call the layers themselves."""
    norm, conv = nn.InstanceNorm3d(5, affine=True).double(), nn.Conv3d(5, 4, 3, padding=1).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(5) + 0.5)
        norm.bias.copy_(torch.arange(5) - 2.0)
    cases: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = [
        (norm, partial(_normalise, norm)),
        (conv, partial(_convolve, conv)),
    ]
    for layer, fast in cases:
        x = (noise(2, 5, 4, 6, 3) * 3 + 100).requires_grad_()
        expected, result = layer(x), fast(x)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
        inputs = (x, *layer.parameters())
        upstream = noise(*expected.shape)
        for one, other in zip(
            torch.autograd.grad(result, inputs, upstream),
            torch.autograd.grad(expected, inputs, upstream),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
