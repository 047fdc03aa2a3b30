from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from stunet.data.patches import PatchSource
from stunet.data.sampler import SamplerConfig
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig
from stunet.io.manifest import DatasetInfo
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter
from stunet.training.augment_where import Costs, try_both, workers_are_faster, workers_augment
from stunet.transforms.augment import AugmentConfig, AugmentDevice
from stunet.types import CaseArrays

CPU = torch.device("cpu")


@pytest.fixture
def source(
    make_info: Callable[..., DatasetInfo], make_case: Callable[..., CaseArrays], tmp_path: Path
) -> PatchSource:
    writer = StoreWriter(tmp_path, make_info())
    writer.finish([writer.write_case(make_case("a", seed=1))])
    augment = AugmentConfig(rotation_p=1.0)
    return PatchSource(open_store(tmp_path), (0,), (16, 16, 16), 0, SamplerConfig(), augment)


@pytest.fixture
def engine() -> Iterator[TrainEngine]:
    parallel = ParallelConfig(micro_batch=1, precision="fp32")
    started = TrainEngine.start(nn.Conv3d(1, 2, 1), OptimConfig(total_steps=1), parallel, 1)
    yield started
    started.close()


@pytest.mark.parametrize(
    ("costs", "workers", "expected"),
    [
        (Costs(read=10, worker=40, device=2, step=100), 2, True),  # workers keep up
        (Costs(read=10, worker=40, device=2, step=8), 2, False),  # the device would wait for them
        (Costs(read=10, worker=40, device=2, step=8), 16, True),  # not for so many
        (Costs(read=10, worker=40, device=60, step=8), 2, True),  # a slow device
        (Costs(read=100, worker=1, device=1, step=8), 2, True),  # reading limits in either place
        (Costs(read=10, worker=40, device=2, step=100), 0, False),  # nobody works beside the step
        (Costs(read=10, worker=2, device=40, step=100), 0, True),
    ],
)
def test_the_faster_place_is_chosen(costs: Costs, workers: int, expected: bool) -> None:
    assert workers_are_faster(costs, workers) == expected


@pytest.mark.parametrize(("where", "expected"), [("cpu", True), ("device", False), ("auto", True)])
def test_without_a_gpu_workers_do_it_unless_told_otherwise(
    engine: TrainEngine, source: PatchSource, where: AugmentDevice, expected: bool
) -> None:
    assert workers_augment(where, engine, source, 2, (1, 16, 16, 16)) == expected


def test_both_are_tried_on_the_patches_of_the_run(source: PatchSource) -> None:
    seconds = try_both(source, CPU)
    assert all(0 < second < 1 for second in seconds)
