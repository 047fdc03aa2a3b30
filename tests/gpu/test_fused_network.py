"""A network with fused kernels against the same network without, on a GPU."""

import pytest
import torch

from stunet.models.spec import ISOTROPIC_STRIDES, ModelConfig
from stunet.models.speed import SpeedConfig, set_speed
from stunet.models.stunet import build_stunet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def step(fused: bool) -> list[torch.Tensor]:
    config = ModelConfig(size="XS", in_channels=1, classes=3, strides=ISOTROPIC_STRIDES)
    model = build_stunet(config, seed=0).cuda().train()
    set_speed(model, SpeedConfig(fused_norm=fused))
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 64, 64, 64, generator=generator).cuda()
    outputs = model(image)
    sum(output.square().mean() for output in outputs).backward()
    return [*(output.detach() for output in outputs), *(p.grad for p in model.parameters())]


def test_fused_and_plain_networks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for fused, plain in zip(step(True), step(False), strict=True):
        # Biases before a norm have a true gradient of 0: rounding noise on both sides.
        assert (fused - plain).abs().max() < 1e-3 * plain.abs().max().clamp(min=1e-3)
