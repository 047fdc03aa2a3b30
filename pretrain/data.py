"""The patches of a pre-training run: which cases, which size, which stream."""

from __future__ import annotations

from collections.abc import Generator

from pretrain.config import PretrainConfig
from stunet.data.loader import batches
from stunet.data.patches import PatchSource
from stunet.engine import distributed
from stunet.errors import DataError
from stunet.io.store import Store
from stunet.types import Batch


def cases_of(store: Store, split: str) -> list[int]:
    """Indices of the rows of a split."""
    return [index for index, row in enumerate(store.rows) if row.split == split]


def patch_source(store: Store, config: PretrainConfig) -> PatchSource:
    """All patches of the run by number.

    Raises:
        DataError: The store has no case to train on.
    """
    cases = cases_of(store, "train")
    if not cases:
        raise DataError(f"store {store.root}: no case has the split 'train'; prepare it again")
    patch_size = config.patch_size or store.info.patch_size
    return PatchSource(store, cases, patch_size, config.seed, config.sampler, config.augment)


def training_batches(store: Store, config: PretrainConfig, start_step: int) -> Generator[Batch]:
    """Micro-batches of this rank from `start_step` on, without end."""
    return batches(
        patch_source(store, config),
        config.global_batch,
        micro_batch=config.parallel.micro_batch,
        rank=distributed.rank(),
        world=distributed.world(),
        start_step=start_step,
        config=config.loader,
    )
