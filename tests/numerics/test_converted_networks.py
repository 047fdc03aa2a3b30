"""Converted checkpoints give the logits of a plain implementation that runs on their raw tensors.

The implementations here are functions of a state dict, with convolutions as the only operation
they share with the networks. Both compute in double precision: what is compared is the network, not
the rounding of a normalisation over two voxels.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from stunet.bundle import load_predictor, read_bundle
from stunet.convert.convert import ConvertOptions, convert
from tests import published
from tests.numerics.test_stunet_reference import reference_forward

STRIDES = tuple(tuple(step) for step in published.RELEASED_STRIDES)


def plain_unet(w: dict[str, Tensor], x: Tensor, residual: bool) -> Tensor:
    """Logits at full resolution of nnU-Net's networks in `published`."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean = x.mean((2, 3, 4), keepdim=True)
        x = (x - mean) / torch.sqrt(((x - mean) ** 2).mean((2, 3, 4), keepdim=True) + 1e-5)
        return x * w[f"{name}.weight"].view(1, -1, 1, 1, 1) + w[f"{name}.bias"].view(1, -1, 1, 1, 1)

    def conv(x: Tensor, name: str, stride: list[int] | None = None) -> Tensor:
        weight = w[f"{name}.conv.weight"]
        padding = tuple(edge // 2 for edge in weight.shape[2:])
        x = F.conv3d(x, weight, w.get(f"{name}.conv.bias"), tuple(stride or [1] * 3), padding)
        return norm(x, f"{name}.norm")

    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.01 * x)

    def block(x: Tensor, name: str, stride: list[int]) -> Tensor:
        y = conv(act(conv(x, f"{name}.conv1", stride)), f"{name}.conv2")
        for axis, step in enumerate(stride):
            x = x.unflatten(2 + axis, (-1, step)).mean(3 + axis)
        for place in (0, 1):
            if f"{name}.skip.{place}.conv.weight" in w:
                x = conv(x, f"{name}.skip.{place}")
        return act(y + x)

    maps = []
    if residual:
        x = act(conv(x, "encoder.stem.convs.0"))
    for s, depth in enumerate(published.ENCODER):
        for i in range(depth):
            stride = [1, 1, 1] if i else published.STRIDES[s]
            if residual:
                x = block(x, f"encoder.stages.{s}.blocks.{i}", stride)
            else:
                x = act(conv(x, f"encoder.stages.{s}.0.convs.{i}", stride))
        maps.append(x)
    x = maps.pop()
    for u, depth in enumerate(published.DECODER):
        x = torch.cat((spread(x, w, f"decoder.transpconvs.{u}"), maps.pop()), dim=1)
        for i in range(depth):
            x = act(conv(x, f"decoder.stages.{u}.convs.{i}"))
    last = f"decoder.seg_layers.{len(published.DECODER) - 1}"
    return F.conv3d(x, w[f"{last}.weight"], w[f"{last}.bias"])


def spread(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """A transposed convolution whose stride is its kernel, as the outer product that it is."""
    blocks = torch.einsum("bizyx,iodhw->bozdyhxw", x, w[f"{name}.weight"])
    return blocks.flatten(6, 7).flatten(4, 5).flatten(2, 3) + w[f"{name}.bias"].view(1, -1, 1, 1, 1)


def logits(bundle: Path, image: Tensor) -> Tensor:
    with torch.no_grad():
        return load_predictor(bundle).model.double()(image)


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def doubled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in weights.items()}


def test_stunet_of_nnunet_v1(tmp_path: Path) -> None:
    weights = published.stunet_weights()
    file = published.write_v1(tmp_path / "small_ep4k.model", weights)
    out = convert(file, tmp_path / "out", ConvertOptions("RAS", labels="stunet")).bundle
    x = image(1, 1, 32, 16, 32)
    expected = reference_forward(doubled(weights), x, 1, STRIDES)[0]
    torch.testing.assert_close(logits(out, x), expected, rtol=1e-9, atol=1e-9)

    bundle = read_bundle(out)
    assert bundle.model.strides == ((2, 2, 2),) * 4 + ((1, 1, 2),)
    assert bundle.preprocessing.spacing_mm == (1.5, 1.5, 1.5)
    assert [channel.scheme for channel in bundle.preprocessing.channels] == ["zscore"]
    assert bundle.labels["rib_left_10"] + 1 == bundle.labels["rib_left_11"]


def test_stunet_of_nnunet_v2(tmp_path: Path) -> None:
    weights = published.stunet_weights(in_channels=1, classes=3)
    prefixed = type(weights)((f"module.{name}", tensor) for name, tensor in weights.items())
    plans = published.stunet_v2_plans()
    folder = published.write_v2(tmp_path / "m", prefixed, plans, published.v2_dataset(1))
    out = convert(folder, tmp_path / "out", ConvertOptions("RAS")).bundle
    x = image(1, 1, 32, 16, 32)
    expected = reference_forward(doubled(weights), x, 1, STRIDES)[0]
    torch.testing.assert_close(logits(out, x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("residual", [False, True])
def test_unets_of_nnunet_v2(tmp_path: Path, residual: bool) -> None:
    weights = published.unet_weights(residual)
    plans = published.v2_plans(published.architecture(residual))
    folder = published.write_v2(tmp_path / "m", weights, plans, published.v2_dataset())
    out = convert(folder, tmp_path / "out", ConvertOptions("RAS")).bundle
    x = image(1, 2, 8, 16, 24)
    expected = plain_unet(doubled(weights), x, residual)
    torch.testing.assert_close(logits(out, x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("orientation", "transpose"),
    [("LPS", [0, 1, 2]), ("LAS", [1, 0, 2]), ("ASR", [0, 1, 2]), ("PIL", [2, 0, 1])],
)
def test_scans_stored_otherwise(tmp_path: Path, orientation: str, transpose: list[int]) -> None:
    """Our image, stored as the training scans were, gives what the raw network makes of it."""
    weights = published.unet_weights(True)
    plans = published.v2_plans(
        published.architecture(True), transpose_forward=transpose, patch_size=[8, 16, 24]
    )
    folder = published.write_v2(tmp_path / "m", weights, plans, published.v2_dataset())
    done = convert(folder, tmp_path / "out", ConvertOptions(orientation))

    network_axes = image(1, 2, 8, 16, 24)  # what nnU-Net would feed
    raw = plain_unet(doubled(weights), network_axes, True)

    def to_ours(x: Tensor) -> Tensor:
        """Undo nnU-Net's transpose, then bring stored axes (k, j, i) to z, y, x of RAS+."""
        x = x.permute(0, 1, *(2 + transpose.index(axis) for axis in range(3)))
        letters = orientation[::-1]  # of k, j, i
        x = x.flip([2 + axis for axis in range(3) if letters[axis] in "LPI"])
        order = [next(a for a in range(3) if letters[a] in pair) for pair in ("SI", "AP", "RL")]
        return x.permute(0, 1, *(2 + axis for axis in order))

    torch.testing.assert_close(
        logits(done.bundle, to_ours(network_axes)), to_ours(raw), rtol=1e-9, atol=1e-9
    )
    assert to_ours(network_axes).shape[2:] == done.preprocessing.patch_size
