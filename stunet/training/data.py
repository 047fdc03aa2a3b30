"""The data of a run: stores or their tars, alone or mixed, as a stream of patches."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from stunet.data.loader import Source, batches
from stunet.data.mixture import MixedSource
from stunet.data.patches import CaseReader, PatchSource
from stunet.data.streamed import PooledVolumes, StreamedSource
from stunet.engine import distributed
from stunet.errors import ConfigError, DataError
from stunet.io.manifest import DatasetInfo
from stunet.io.remote import StoreOptions
from stunet.io.store import Store, open_store
from stunet.io.tar_set import TarSet, is_tar_set, open_tar_set
from stunet.training.agreement import check_agreement
from stunet.training.recipe import TrainingConfig
from stunet.training.split import CaseChoice, SplitConfig, training_cases
from stunet.transforms.windows import WindowBatch
from stunet.types import Batch, Channel, Size3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained and validated on.

    Attributes:
        info: What all data sets share; plan and normalisation are those of the first.
        parts: The data sets, in the order of the recipe.
        weights: One per data set.
        cases: One choice per data set: what is trained on, what is held out.
    """

    info: DatasetInfo
    parts: tuple[Store | TarSet, ...]
    weights: tuple[float, ...]
    cases: tuple[CaseChoice, ...]

    @cached_property
    def content(self) -> list[str]:
        """A SHA-256 per data set of its cases; a store and its tars have the same."""
        return [content_sha256(part) for part in self.parts]


def open_data(config: TrainingConfig) -> TrainingData:
    """Open the data of a run and check that they can be trained on together.

    Raises:
        DataError: One is damaged, has no case to train on, or does not fit the first.
    """
    parts = [_open(share.path, config.remote) for share in config.shares]
    cases = tuple(training_cases(part.rows, config.split) for part in parts)
    first = parts[0]
    for part, chosen in zip(parts, cases, strict=True):
        check_agreement(first, part)
        if not chosen.train:
            raise DataError(f"store {part.root}: no case has the split 'train'; prepare it again")
        part.info = replace(part.info, channels=first.info.channels)  # statistics of the first
    info = first.info
    if len(parts) > 1:
        info = replace(info, name=" + ".join(part.info.name for part in parts))
    return TrainingData(info, tuple(parts), tuple(share.weight for share in config.shares), cases)


def chosen_ids(data: TrainingData, config: TrainingConfig) -> list[dict[str, list[str]]]:
    """The cases of each data set by id, where the recipe chose them and not the store."""
    if config.split == SplitConfig():
        return []
    return [
        {
            "train": [part.rows[index].case_id for index in chosen.train],
            "val": [part.rows[index].case_id for index in chosen.val],
        }
        for part, chosen in zip(data.parts, data.cases, strict=True)
    ]


def with_plan(
    data: TrainingData, channels: tuple[Channel, ...], patch_size: Size3, strides: tuple[Size3, ...]
) -> TrainingData:
    """The data under another plan than their stores'; patches are normalised as they are read."""
    plan: dict[str, Any] = {"channels": channels, "patch_size": patch_size, "strides": strides}
    for part in data.parts:
        part.info = replace(part.info, **plan)
    return replace(data, info=replace(data.info, **plan))


def patch_source(data: TrainingData, config: TrainingConfig) -> Source:
    """All patches of the run by number."""
    size = config.patch_for(data.info)
    pools = [PooledVolumes(part) if isinstance(part, TarSet) else None for part in data.parts]
    sources = [
        PatchSource(
            pool or part,
            chosen.train,
            size,
            config.seed,
            config.sampler,
            config.augment,
            dataset=number,
        )
        for number, (part, pool, chosen) in enumerate(
            zip(data.parts, pools, data.cases, strict=True)
        )
    ]
    mixed = MixedSource(sources, data.weights, config.seed, config.sampler)
    streamed = any(pool is not None for pool in pools)
    return StreamedSource(mixed, pools, config.sampler) if streamed else mixed


def training_batches(
    data: TrainingData, config: TrainingConfig, start_step: int, augment_here: bool = True
) -> Generator[Batch | WindowBatch]:
    """Micro-batches of this rank from `start_step` on, without end; see `loader.batches`."""
    if any(isinstance(part, TarSet) for part in data.parts):
        _check_lanes(config, distributed.world())
    return batches(
        patch_source(data, config),
        config.global_batch,
        micro_batch=config.parallel.micro_batch,
        rank=distributed.rank(),
        world=distributed.world(),
        start_step=start_step,
        config=config.loader,
        augment_here=augment_here,
    )


def content_sha256(cases: CaseReader) -> str:
    """A SHA-256 of what is known of all cases, however they are stored: sources, labels, splits."""
    digest = hashlib.sha256()
    for row in cases.rows:
        facts = [
            row.case_id,
            row.split,
            row.shape_zyx,
            row.preparation,
            sorted(row.source_sha256.items()),
            sorted(row.voxel_counts.items()),
            row.annotated,
        ]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def _open(path: str, options: StoreOptions) -> Store | TarSet:
    opener = open_tar_set if is_tar_set(path, options) else open_store
    return opener(path, options)


def _check_lanes(config: TrainingConfig, world: int) -> None:
    """See that a volume of a tar is not decoded by several ranks, and say so if by several workers.

    Raises:
        ConfigError: The lanes of volumes do not fit the batch.
    """
    lanes, batch = config.sampler.volumes_at_once, config.global_batch
    if lanes % batch:
        raise ConfigError(
            f"sampler.volumes_at_once={lanes} is no multiple of global_batch={batch}, so that"
            f" several ranks would decode each volume; give e.g. {-(-lanes // batch) * batch}"
        )
    share = batch // world
    turn = lanes // batch * (share // (config.parallel.micro_batch or share))
    if config.loader.workers > 1 and turn % config.loader.workers:
        log.warning(
            "loader.workers=%d: each volume is decoded by several workers; with a divisor of %d"
            " (volumes_at_once / global_batch, times micro-batches) it is decoded once",
            config.loader.workers,
            turn,
        )
