import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import psutil
import pytest
import torch

from stunet.data.loader import LoaderConfig, WorkerTraceback, batches
from stunet.data.patches import Patch, PatchSource, RawPatch, Room
from stunet.data.sampler import SamplerConfig
from stunet.errors import ConfigError, DataError
from stunet.io.store import Store, open_store
from stunet.transforms.augment import AugmentConfig
from stunet.transforms.windows import WindowBatch, augment_batch
from stunet.types import Batch

PATCH = (24, 16, 20)
GLOBAL_BATCH = 4
AUGMENT = AugmentConfig(rotation_p=0.5, noise_p=0.5, blur_p=0.5, contrast_p=0.5, gamma_p=0.5)


def source(store: Store) -> PatchSource:
    return PatchSource(store, (0, 1, 2), PATCH, 3, SamplerConfig(), AUGMENT)


def take(count: int, patches: object, workers: int, **options: int) -> list[Batch]:
    stream = batches(patches, GLOBAL_BATCH, config=LoaderConfig(workers), **options)
    with closing(stream):
        return list(islice(stream, count))


STEPS = 16  # 64 patches


@pytest.fixture(scope="module")
def first_patches(store_root: Path) -> list[Patch]:
    """The first 64 patches, made here one after the other."""
    patches = source(open_store(store_root))
    return [patches[sample] for sample in range(STEPS * GLOBAL_BATCH)]


def test_the_first_patches_differ_in_case_place_and_augmentation(
    first_patches: list[Patch],
) -> None:
    draws = [patch.draw for patch in first_patches]
    assert {draw.case for draw in draws} == {0, 1, 2}
    assert len({draw.start_zyx for draw in draws}) > 32
    assert len({(draw.spatial, draw.intensity) for draw in draws}) > 32


@pytest.mark.parametrize(
    ("world", "workers", "start_step"),
    [(world, workers, 0) for world in (1, 2, 4) for workers in (0, 1, 2)]
    + [(1, 1, 9), (2, 2, 9), (4, 0, 9)],
)
def test_stream_is_the_same_for_any_ranks_workers_and_resume(
    store: Store, first_patches: list[Patch], world: int, workers: int, start_step: int
) -> None:
    patches = source(store)
    count = STEPS - start_step
    ranks = [
        take(count, patches, workers, rank=rank, world=world, start_step=start_step)
        for rank in range(world)
    ]
    rows = [
        (batch.sample_ids[row], batch.case_ids[row], batch.image_bcdhw[row], batch.label_bdhw[row])
        for step in range(count)
        for batch in (ranks[rank][step] for rank in range(world))
        for row in range(GLOBAL_BATCH // world)
    ]
    expected = first_patches[start_step * GLOBAL_BATCH :]
    assert len(rows) == len(expected)
    for (sample, case_id, image, label), patch in zip(rows, expected, strict=True):
        assert (sample, case_id) == (patch.draw.sample, patch.draw.case_id)
        assert patches.draw(sample) == patch.draw
        assert torch.equal(image, patch.image_cdhw)
        assert torch.equal(label, patch.label_dhw)


@pytest.mark.parametrize("workers", [0, 2])
def test_patches_without_augmentation_are_those_read_alone(store: Store, workers: int) -> None:
    plain = PatchSource(store, (0, 1, 2), PATCH, 3, SamplerConfig(), AugmentConfig(enabled=False))
    kept = take(4, plain, workers)  # all at once: no batch may lie in the room of another
    for row in range(4 * GLOBAL_BATCH):
        batch, patch = kept[row // GLOBAL_BATCH], plain[row]
        assert torch.equal(batch.image_bcdhw[row % GLOBAL_BATCH], patch.image_cdhw)
        assert torch.equal(batch.label_bdhw[row % GLOBAL_BATCH], patch.label_dhw)


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_for_the_device_become_the_same_patches(
    store: Store, first_patches: list[Patch], workers: int
) -> None:
    sent = take(4, source(store), workers, augment_here=False)
    assert all(isinstance(batch, WindowBatch) for batch in sent)
    made = [augment_batch(batch, torch.device("cpu")) for batch in sent]
    for row, patch in enumerate(first_patches[: 4 * GLOBAL_BATCH]):
        batch = made[row // GLOBAL_BATCH]
        assert batch.sample_ids[row % GLOBAL_BATCH] == patch.draw.sample
        assert torch.equal(batch.label_bdhw[row % GLOBAL_BATCH], patch.label_dhw)
        torch.testing.assert_close(
            batch.image_bcdhw[row % GLOBAL_BATCH], patch.image_cdhw, rtol=1e-4, atol=1e-4
        )


def test_what_a_patch_took_is_noted(store: Store) -> None:
    (batch,) = take(1, source(store), 0)
    assert 0 < batch.augment_s < batch.patch_s
    (sent,) = take(1, source(store), 0, augment_here=False)
    assert 0 < sent.augment_s < sent.patch_s


def test_micro_batches_cut_a_step_in_order(store: Store) -> None:
    halves = take(4, source(store), 0, rank=1, world=2, micro_batch=1)
    assert [batch.sample_ids for batch in halves] == [(2,), (3,), (6,), (7,)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": 3}, "global batch 4 .* multiple of 3"),
        ({"world": 2, "micro_batch": 3}, "micro batch 3 .* divisor of 2"),
        ({"micro_batch": 0}, "micro batch 0"),
    ],
)
def test_uneven_batches_are_refused_at_once(
    store: Store, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        batches(source(store), GLOBAL_BATCH, **options)


def test_impossible_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loader.workers=-1"):
        LoaderConfig(workers=-1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_arrives_as_the_error_that_the_store_raised(
    store_root: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(store_root, tmp_path / "store")
    store = open_store(tmp_path / "store")
    for shard in (tmp_path / "store").glob("cases/*/*/image/c/**/0"):
        if shard.is_file():
            shard.write_bytes(bytes(shard.stat().st_size))
    patches = source(store)
    with pytest.raises(DataError) as direct:
        patches[0]
    with pytest.raises(DataError) as arrived:
        take(1, patches, workers)
    assert str(arrived.value) == str(direct.value)
    assert "\n" not in str(arrived.value)
    assert isinstance(arrived.value.__cause__, WorkerTraceback)
    assert "read_patch" in str(arrived.value.__cause__)


class Broken:
    """Fails at patch 5 in the way it was told."""

    def __init__(self, store: Store, fault: str) -> None:
        self._good = source(store)
        self._fault = fault

    def raw(self, sample: int, room: Room | None = None) -> RawPatch:
        if sample == 5 and self._fault == "bug":
            raise ZeroDivisionError("two\nlines")
        if sample == 5 and self._fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return self._good.raw(sample, room)

    def locate(self, sample: int) -> str:
        return self._good.locate(sample)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bug_in_a_worker_names_the_patch_and_keeps_its_traceback(
    store: Store, workers: int
) -> None:
    with pytest.raises(DataError) as arrived:
        take(3, Broken(store, "bug"), workers)
    message = str(arrived.value)
    assert message.startswith(f"sample 5, {source(store).locate(5)}: ZeroDivisionError: two lines;")
    assert "Traceback" in str(arrived.value.__cause__)
    assert 'raise ZeroDivisionError("two' in str(arrived.value.__cause__)


def test_a_killed_worker_is_reported_with_its_samples(store: Store) -> None:
    with pytest.raises(DataError, match=r"^samples [04] to [37]: a data worker died .* lower"):
        take(3, Broken(store, "killed"), 1)


def test_closing_ends_the_workers_promptly(store: Store) -> None:
    before = set(multiprocessing.active_children())
    stream = batches(source(store), GLOBAL_BATCH, config=LoaderConfig(workers=2))
    next(stream)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 3
    assert not any(worker.is_alive() for worker in workers)


def test_workers_and_their_server_leave_signals_to_the_training_process(store: Store) -> None:
    before = set(multiprocessing.active_children())
    with closing(batches(source(store), GLOBAL_BATCH, config=LoaderConfig(workers=1))) as stream:
        next(stream)
        (worker,) = set(multiprocessing.active_children()) - before
        server = psutil.Process(worker.pid).ppid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            os.kill(worker.pid, number)
            os.kill(server, number)
        ahead = [next(stream).sample_ids[0] for _ in range(4)]
        assert psutil.pid_exists(server)
    assert ahead == [4, 8, 12, 16]
    assert not worker.is_alive()


KILLED_RUN = """
import multiprocessing, os, sys
from stunet.data.loader import LoaderConfig, batches
from stunet.data.patches import PatchSource
from stunet.data.sampler import SamplerConfig
from stunet.io.store import open_store
from stunet.transforms.augment import AugmentConfig

patches = PatchSource(
    open_store(sys.argv[1]), (0,), (16, 16, 16), 0, SamplerConfig(), AugmentConfig()
)
stream = batches(patches, 2, config=LoaderConfig(workers=2))
next(stream)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), 9)
"""


def test_workers_end_when_the_training_process_is_killed(store_root: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(store_root)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    workers = [int(pid) for pid in run.stdout.split()]
    assert run.returncode == -signal.SIGKILL and len(workers) == 2
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in workers)


def test_the_global_generator_is_left_alone(store: Store) -> None:
    before = torch.get_rng_state()
    take(2, source(store), 0)
    take(2, source(store), 1)
    assert torch.equal(torch.get_rng_state(), before)
