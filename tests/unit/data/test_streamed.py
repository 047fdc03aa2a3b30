"""Patches from tars: those of the store, whoever computes them, and each volume decoded once."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import torch

from data_tools.shard import ShardConfig, shard
from stunet.data.loader import LoaderConfig, batches
from stunet.data.mixture import MixedSource
from stunet.data.patches import CaseReader, Patch, PatchSource
from stunet.data.sampler import SamplerConfig, visit_of
from stunet.data.streamed import PooledVolumes, StreamedSource
from stunet.errors import DataError
from stunet.io.store import Store
from stunet.io.tar_set import TarSet, Volume, open_tar_set
from stunet.transforms.augment import AugmentConfig
from stunet.types import Batch

PATCH = (24, 16, 20)
BATCH, STEPS = 4, 20
EVERY = SamplerConfig()
KEPT = SamplerConfig(patches_per_volume=4, volumes_at_once=8)
AUGMENT = AugmentConfig(rotation_p=0.4, noise_p=0.5, blur_p=0.5, contrast_p=0.5)


@pytest.fixture(scope="module")
def tar_root(store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shard(
        store_root, tmp_path_factory.mktemp("tars"), ShardConfig(cases=2), lambda *done: None
    )


class CountedTars(TarSet):
    """Writes down which case was decoded, from any process."""

    journal: Path

    def read_volume(self, case: int) -> Volume:
        with self.journal.open("a") as journal:
            journal.write(f"{case}\n")
        return super().read_volume(case)

    def decoded(self) -> list[int]:
        return [int(line) for line in self.journal.read_text().splitlines()]


def counted(root: Path, journal: Path) -> CountedTars:
    tars = open_tar_set(root)
    tars.__class__ = CountedTars
    tars.journal = journal
    return tars


def patches(cases: CaseReader, sampler: SamplerConfig) -> MixedSource:
    part = PatchSource(cases, (0, 1, 2), PATCH, 3, sampler, AUGMENT)
    return MixedSource([part], (1,), 3, sampler)


def streamed(tars: TarSet, sampler: SamplerConfig) -> StreamedSource:
    pool = PooledVolumes(tars)
    return StreamedSource(patches(pool, sampler), [pool], sampler)


@pytest.mark.parametrize("sampler", [EVERY, KEPT])
def test_tars_give_the_patches_of_the_store(
    store: Store, tar_root: Path, sampler: SamplerConfig
) -> None:
    ours, theirs = streamed(open_tar_set(tar_root), sampler), patches(store, sampler)
    for sample in (0, 1, 2, 3, 4, 30, 31, 9):
        ours_now, theirs_now = ours[sample], theirs[sample]
        assert ours_now.draw == theirs_now.draw
        assert torch.equal(ours_now.image_cdhw, theirs_now.image_cdhw)
        assert torch.equal(ours_now.label_dhw, theirs_now.label_dhw)


@pytest.fixture(scope="module")
def expected(store: Store) -> list[Patch]:
    source = patches(store, KEPT)
    return [source[sample] for sample in range(BATCH * STEPS)]


def take(source: StreamedSource, count: int, workers: int, **options: int) -> list[Batch]:
    with closing(batches(source, BATCH, config=LoaderConfig(workers), **options)) as stream:
        return list(islice(stream, count))


@pytest.mark.parametrize(
    ("world", "workers", "start_step"),
    [(world, workers, 0) for world in (1, 2, 4) for workers in (0, 1, 2)]
    + [(1, 2, 7), (2, 0, 7), (4, 1, 8)],  # within an epoch, within a visit and at its end
)
def test_stream_is_the_same_for_any_ranks_workers_and_resume(
    tar_root: Path, expected: list[Patch], world: int, workers: int, start_step: int
) -> None:
    tars = open_tar_set(tar_root)
    count = STEPS - start_step
    ranks = [
        take(streamed(tars, KEPT), count, workers, rank=rank, world=world, start_step=start_step)
        for rank in range(world)
    ]
    rows = [
        (batch.sample_ids[row], batch.image_bcdhw[row], batch.label_bdhw[row])
        for step in range(count)
        for batch in (ranks[rank][step] for rank in range(world))
        for row in range(BATCH // world)
    ]
    wanted = expected[start_step * BATCH :]
    assert [row[0] for row in rows] == [patch.draw.sample for patch in wanted]
    for (_, image, label), patch in zip(rows, wanted, strict=True):
        assert torch.equal(image, patch.image_cdhw) and torch.equal(label, patch.label_dhw)


MANY = SamplerConfig(patches_per_volume=8, volumes_at_once=16)


@pytest.fixture(scope="module")
def many_tars(many_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many cases that hardly one is visited twice at the same time."""
    out = tmp_path_factory.mktemp("many_tars")
    return shard(many_root, out, ShardConfig(), lambda *done: None)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (1, 2), (2, 2)])
def test_each_visit_decodes_its_volume_once_in_one_process(
    many_tars: Path, tmp_path: Path, world: int, workers: int
) -> None:
    tars, batch, steps = counted(many_tars, tmp_path / "journal"), 8, 50  # one epoch
    for rank in range(world):
        pool = PooledVolumes(tars)
        part = PatchSource(pool, range(50), (8, 8, 8), 3, MANY, AugmentConfig(enabled=False))
        source = StreamedSource(MixedSource([part], (1,), 3, MANY), [pool], MANY)
        config = LoaderConfig(workers)
        with closing(batches(source, batch, rank=rank, world=world, config=config)) as stream:
            assert len(list(islice(stream, steps))) == steps
    visits = len({visit_of(sample, MANY) for sample in range(steps * batch)})
    further = steps + workers * config.prefetch  # steps that workers may have gone ahead
    reached = len({visit_of(sample, MANY) for sample in range(further * batch)})
    decodes = len(tars.decoded())
    assert decodes <= reached + MANY.volumes_at_once  # one ahead per lane
    assert decodes > 0.8 * visits  # lanes share a volume now and then


def test_a_full_visit_cuts_exactly_so_many_patches_and_lanes_change_evenly() -> None:
    visits = [visit_of(sample, KEPT) for sample in range(4 * 8 * 20)]
    cut = Counter(visits)
    whole = [count for visit, count in cut.items() if 8 <= visit < max(cut) - 15]
    assert set(whole) == {KEPT.patches_per_volume}
    changes = [a != b for a, b in zip(visits, visits[8:], strict=False)]
    per_turn = [sum(changes[turn * 8 : turn * 8 + 8]) for turn in range(70)]
    assert set(per_turn) == {2}
    assert [visit_of(sample, EVERY) for sample in range(99)] == list(range(99))


def test_no_more_volumes_are_kept_than_lanes_and_those_that_come_next(tar_root: Path) -> None:
    tars = open_tar_set(tar_root)
    pool = PooledVolumes(tars)
    pool.keep(0, (0,))
    pool.keep(1, (0, 1))
    assert set(pool._volumes) == {0, 1}
    pool.keep(0, (2,))
    pool.keep(1, (1,))
    assert set(pool._volumes) == {1, 2}
    assert set(pickle.loads(pickle.dumps(pool))._volumes) == set()


def test_stores_and_tars_mix(store: Store, tar_root: Path) -> None:
    pool = PooledVolumes(open_tar_set(tar_root))
    plain = [PatchSource(store, (0, 1), PATCH, 3, KEPT, AUGMENT, d) for d in (0, 1)]
    from_tars = PatchSource(pool, (0, 1), PATCH, 3, KEPT, AUGMENT, 1)
    mixed = MixedSource([plain[0], from_tars], (1, 1), 3, KEPT)
    ours, theirs = StreamedSource(mixed, [None, pool], KEPT), MixedSource(plain, (1, 1), 3, KEPT)
    for sample in range(12):
        assert torch.equal(ours[sample].image_cdhw, theirs[sample].image_cdhw)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_tar_arrives_as_the_error_that_names_it(
    tar_root: Path, tmp_path: Path, workers: int
) -> None:
    root = shutil.copytree(tar_root, tmp_path / "tars")
    source = streamed(open_tar_set(root), KEPT)
    for tar in root.glob("*.tar"):
        data = bytearray(tar.read_bytes())
        for place in range(2048, len(data), 4096):
            data[place] ^= 1
        tar.write_bytes(data)
    with pytest.raises(DataError, match=r"case \w+: .*\.tar") as arrived:
        take(source, 2, workers)
    assert "\n" not in str(arrived.value)
