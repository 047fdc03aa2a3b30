"""A two-layer net in an engine of one process, and a stream of small batches for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from torch import nn

from stunet.engine import distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig
from stunet.types import Batch

GLOBAL_BATCH = 2


class SmallNet(nn.Module):
    """113 parameters in fp32, a buffer that is saved and one that is not."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.enter = nn.Conv3d(1, 3, 3, padding=1)
            self.norm = nn.InstanceNorm3d(3, affine=True)
            self.head = nn.Conv3d(3, 2, 1)
        self.register_buffer("version", torch.tensor([1, 2]))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def forward(self, image_bcdhw: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.enter(image_bcdhw)).relu())


def small_batch(step: int, patches: int = GLOBAL_BATCH) -> Batch:
    random = torch.Generator().manual_seed(step)
    image = torch.randn(patches, 1, 4, 4, 4, generator=random)
    ids = tuple(range(step * patches, (step + 1) * patches))
    return Batch(image, (image[:, 0] > 0).short(), ids, tuple(f"s{i}" for i in ids))


def small_stream(first_step: int = 0) -> Iterator[Batch]:
    while True:
        yield small_batch(first_step)
        first_step += 1


def cross_entropy(logits_bkdhw: torch.Tensor, label_bdhw: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits_bkdhw.float(), label_bdhw.long())


@pytest.fixture
def make_engine() -> Iterator[Callable[..., TrainEngine]]:
    """Start engines with `make_engine(seed=..., stage=..., model=..., lr=..., ...)`."""
    started: list[TrainEngine] = []

    def make(
        *,
        seed: int = 0,
        stage: int = 0,
        model: nn.Module | None = None,
        micro_batch: int = GLOBAL_BATCH,
        offload: Literal["none", "cpu", "nvme"] = "none",
        nvme_path: str | None = None,
        **optim: Any,
    ) -> TrainEngine:
        engine = TrainEngine.start(
            model or SmallNet(seed),
            OptimConfig(**({"total_steps": 6} | optim)),
            ParallelConfig(stage, micro_batch, "fp32", offload, nvme_path),
            GLOBAL_BATCH,
        )
        started.append(engine)
        return engine

    yield make
    for engine in started:
        engine.close()


@pytest.fixture(scope="session", autouse=True)
def _one_process_group() -> Iterator[None]:
    yield
    distributed.stop()


@pytest.fixture
def make_net() -> Callable[[int], nn.Module]:
    return SmallNet


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return small_batch


@pytest.fixture
def make_stream() -> Callable[..., Iterator[Batch]]:
    return small_stream


@pytest.fixture
def loss_function() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return cross_entropy
