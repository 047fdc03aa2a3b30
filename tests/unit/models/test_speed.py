"""Recomputing blocks: bit for bit the same training, in less memory."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from stunet.models.spec import ISOTROPIC_STRIDES, ModelConfig
from stunet.models.speed import SpeedConfig, set_speed
from stunet.models.stunet import STUNet, build_stunet


def build(recompute: bool) -> STUNet:
    config = ModelConfig(size="XS", in_channels=1, classes=3, strides=ISOTROPIC_STRIDES)
    model = build_stunet(config, seed=0)
    set_speed(model, SpeedConfig(recompute="block" if recompute else "none"))
    return model.train()


def image() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 32, 32, 64, generator=generator)


def step(model: STUNet) -> list[Tensor]:
    outputs = model(image())
    sum(output.square().mean() for output in outputs).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [*(output.detach() for output in outputs), *gradients]


def test_recomputing_changes_no_bit() -> None:
    kept, recomputed = step(build(recompute=False)), step(build(recompute=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))


def kept_bytes(model: STUNet) -> int:
    """Of all distinct feature maps that autograd holds between the two passes."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = model(image())  # noqa: F841 - the graph lives with it
    return sum(held.values())


def test_recomputing_keeps_a_fraction_of_the_feature_maps() -> None:
    assert kept_bytes(build(recompute=True)) < 0.45 * kept_bytes(build(recompute=False))


def test_validation_recomputes_nothing() -> None:
    model = build(recompute=True).eval()
    with torch.no_grad():
        alike = build(recompute=False).eval()(image())
        assert torch.equal(model(image()), alike)
