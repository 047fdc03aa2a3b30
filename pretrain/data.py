"""The data of a pre-training run: stores or their tars, alone or mixed, as a stream of patches."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator
from dataclasses import dataclass, replace

from pretrain.agreement import check_agreement
from pretrain.config import PretrainConfig
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
from stunet.types import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained and validated on.

    Attributes:
        info: What all data sets share; plan and normalisation are those of the first.
        parts: The data sets, in the order of the recipe.
        weights: One per data set.
    """

    info: DatasetInfo
    parts: tuple[Store | TarSet, ...]
    weights: tuple[float, ...]

    def content(self) -> list[str]:
        """Return a SHA-256 per data set of its cases; a store and its tars have the same."""
        return [content_sha256(part) for part in self.parts]


def open_data(config: PretrainConfig) -> TrainingData:
    """Open the data of a run and check that they can be trained on together.

    Raises:
        DataError: One is damaged, has no case to train on, or does not fit the first.
    """
    parts = [_open(share.path, config.remote) for share in config.shares]
    first = parts[0]
    for part in parts:
        check_agreement(first, part)
        if not cases_of(part, "train"):
            raise DataError(f"store {part.root}: no case has the split 'train'; prepare it again")
        part.info = replace(part.info, channels=first.info.channels)  # statistics of the first
    info = first.info
    if len(parts) > 1:
        info = replace(info, name=" + ".join(part.info.name for part in parts))
    return TrainingData(info, tuple(parts), tuple(share.weight for share in config.shares))


def cases_of(cases: CaseReader, split: str) -> list[int]:
    """Indices of the rows of a split."""
    return [index for index, row in enumerate(cases.rows) if row.split == split]


def patch_source(data: TrainingData, config: PretrainConfig) -> Source:
    """All patches of the run by number."""
    size = config.patch_size or data.info.patch_size
    pools = [PooledVolumes(part) if isinstance(part, TarSet) else None for part in data.parts]
    sources = [
        PatchSource(
            pool or part,
            cases_of(part, "train"),
            size,
            config.seed,
            config.sampler,
            config.augment,
            dataset=number,
        )
        for number, (part, pool) in enumerate(zip(data.parts, pools, strict=True))
    ]
    mixed = MixedSource(sources, data.weights, config.seed, config.sampler)
    streamed = any(pool is not None for pool in pools)
    return StreamedSource(mixed, pools, config.sampler) if streamed else mixed


def training_batches(
    data: TrainingData, config: PretrainConfig, start_step: int
) -> Generator[Batch]:
    """Micro-batches of this rank from `start_step` on, without end."""
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


def _check_lanes(config: PretrainConfig, world: int) -> None:
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
