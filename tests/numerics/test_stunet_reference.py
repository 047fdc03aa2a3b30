"""STU-Net against a plain functional implementation written from the published description.

It shares nothing with `stunet.models`: weights are drawn here under the published key names, the
statistics of the normalisation are written out, nothing is in place, and the up-sampling
interpolates before its convolution, as the authors' code does.
"""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from stunet.models.stunet import STUNet

Strides = tuple[tuple[int, int, int], ...]
ISOTROPIC: Strides = ((2, 2, 2),) * 5
RELEASED: Strides = ((2, 2, 2),) * 4 + ((1, 1, 2),)


def expected_shapes(
    channels: tuple[int, ...], depth: int, in_channels: int, classes: int
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = weight[:1]

    def stage(name: str, c_in: int, c: int) -> None:
        for block in range(depth):
            layer(f"{name}.{block}.conv1", c, c if block else c_in, 3, 3, 3)
            layer(f"{name}.{block}.norm1", c)
            layer(f"{name}.{block}.conv2", c, c, 3, 3, 3)
            layer(f"{name}.{block}.norm2", c)
        layer(f"{name}.0.conv3", c, c_in, 1, 1, 1)

    for s, (c_in, c) in enumerate(pairwise((in_channels, *channels))):
        stage(f"conv_blocks_context.{s}", c_in, c)
    for u in range(5):
        fine, coarse = channels[4 - u], channels[5 - u]
        layer(f"upsample_layers.{u}.conv", fine, coarse, 1, 1, 1)
        stage(f"conv_blocks_localization.{u}", 2 * fine, fine)
        layer(f"seg_outputs.{u}", classes, fine, 1, 1, 1)
    return shapes


def reference_forward(
    w: dict[str, Tensor], x: Tensor, depth: int, strides: Strides
) -> list[Tensor]:
    def conv(x: Tensor, name: str, stride: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv3d(x, weight, w[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        mean = x.mean((2, 3, 4), keepdim=True)
        variance = ((x - mean) ** 2).mean((2, 3, 4), keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-5)
        return x * w[f"{name}.weight"].view(1, -1, 1, 1, 1) + w[f"{name}.bias"].view(1, -1, 1, 1, 1)

    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.01 * x)

    def stage(x: Tensor, name: str, stride: tuple[int, ...]) -> Tensor:
        for block in range(depth):
            key = f"{name}.{block}"
            step = stride if block == 0 else (1, 1, 1)
            y = act(norm(conv(x, f"{key}.conv1", step), f"{key}.norm1"))
            y = norm(conv(y, f"{key}.conv2"), f"{key}.norm2")
            x = act(y + (conv(x, f"{key}.conv3", step) if block == 0 else x))
        return x

    features = []
    for s, stride in enumerate(((1, 1, 1), *strides)):
        x = stage(x, f"conv_blocks_context.{s}", stride)
        features.append(x)
    outputs = []
    for u in range(5):
        for axis, factor in enumerate(strides[4 - u]):
            x = x.repeat_interleave(factor, dim=2 + axis)
        x = torch.cat([conv(x, f"upsample_layers.{u}.conv"), features[4 - u]], dim=1)
        x = stage(x, f"conv_blocks_localization.{u}", (1, 1, 1))
        outputs.append(conv(x, f"seg_outputs.{u}"))
    return outputs[::-1]


CASES = [
    # channels, depth, in_channels, strides
    ((4, 8, 16, 32, 64, 64), 1, 1, RELEASED),
    ((3, 4, 5, 6, 7, 7), 3, 2, ((2, 2, 2), (2, 1, 2), (2, 2, 1), (1, 1, 1), (1, 3, 1))),
    ((2, 3, 4, 5, 6, 6), 2, 1, ISOTROPIC),
]


@pytest.mark.parametrize(("channels", "depth", "in_channels", "strides"), CASES)
def test_equals_the_reference(
    channels: tuple[int, ...], depth: int, in_channels: int, strides: Strides
) -> None:
    generator = torch.Generator().manual_seed(7)
    shapes = expected_shapes(channels, depth, in_channels, classes=4)
    weights = {
        key: torch.randn(shape, generator=generator, dtype=torch.float64) / 3
        for key, shape in shapes.items()
    }
    divisor = [1, 1, 1]
    for stride in strides:
        divisor = [d * s for d, s in zip(divisor, stride, strict=True)]
    size = (divisor[0] * 2, divisor[1], divisor[2])
    image = torch.randn(1, in_channels, *size, generator=generator, dtype=torch.float64)

    model = STUNet(channels, depth, in_channels, 4, strides).double()
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == shapes
    model.load_state_dict(weights)
    plain = {key: value.requires_grad_() for key, value in weights.items()}

    ours, theirs = model(image), reference_forward(plain, image, depth, strides)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    # Gradients too: activations and sums are in place in the network and not in the reference.
    torch.stack([o.sin().mean() for o in ours]).sum().backward()
    torch.stack([o.sin().mean() for o in theirs]).sum().backward()
    for key, parameter in model.named_parameters():
        expected = plain[key].grad
        assert expected is not None
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-7, atol=1e-10, msg=key)


@pytest.mark.parametrize(("depth", "tensors"), [(1, 130), (2, 218), (3, 306)])
def test_number_of_state_dict_tensors(depth: int, tensors: int) -> None:
    with torch.device("meta"):
        model = STUNet((4, 4, 4, 4, 4, 4), depth, 1, 2, ISOTROPIC)
    assert len(model.state_dict()) == tensors
