from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.idle import freeze_idle_heads
from stunet.engine.step import train_step
from stunet.losses.deep_supervision import deep_supervision_loss
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Batch

STRIDES = ((2, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1), (1, 1, 1))
CONFIG = ModelConfig(size="XS", in_channels=1, classes=3, strides=STRIDES)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_head_that_counts_for_nothing_stays_as_in_plain_torch(
    make_engine: Callable[..., TrainEngine], stage: int
) -> None:
    random = torch.Generator().manual_seed(4)
    image = torch.randn(2, 1, 8, 8, 8, generator=random)
    batch = Batch(image, (image[:, 0] > 0).short(), (0, 1))

    def loss_function(logits: list[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        return deep_supervision_loss(logits, label, strides=STRIDES)

    plain = build_model(CONFIG, seed=1)
    optimizer = torch.optim.SGD(plain.parameters(), 0.01, 0.99, weight_decay=0.5, nesterov=True)
    loss_function(plain(image), batch.label_bdhw).backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 12.0)
    optimizer.step()

    model = build_model(CONFIG, seed=1)
    freeze_idle_heads(model)
    engine = make_engine(stage=stage, model=model, weight_decay=0.5)
    train_step(engine, [batch], loss_function)
    found = engine.gather_weights()
    begun = build_model(CONFIG, seed=1).state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)
        assert torch.equal(found[name], begun[name]) == name.startswith("seg_outputs.0."), name
