"""Patches cut from whole volumes: decoded once per visit, the next ones ahead in the background.

The patches are those of any other source; only what is kept in memory is decided here. A process
holds a volume for each lane (`stunet.data.sampler.visit_of`) that it is asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from stunet.data.mixture import MixedSource
from stunet.data.patches import Patch, RawPatch, Room
from stunet.data.sampler import SamplerConfig, visit_of
from stunet.io.manifest import CaseRow, DatasetInfo
from stunet.io.tar_set import TarSet, Volume
from stunet.types import Size3

AHEAD = 2  # volumes fetched and decoded at the same time beside the patches of a process


class PooledVolumes:
    """The cases of tars with some volumes kept decoded; a `CaseReader`.

    Pickles without its volumes and threads. `keep` and reading are for one thread.
    """

    def __init__(self, tars: TarSet) -> None:
        self._tars = tars
        self._forget()

    def _forget(self) -> None:
        self._kept: dict[int, tuple[int, ...]] = {}
        self._volumes: dict[int, Future[Volume]] = {}
        self._threads: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_tars": self._tars}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def root(self) -> object:
        """Where the tars lie."""
        return self._tars.root

    @property
    def info(self) -> DatasetInfo:
        """What the cases share."""
        return self._tars.info

    @property
    def rows(self) -> Sequence[CaseRow]:
        """The cases."""
        return self._tars.rows

    def keep(self, lane: int, cases: Sequence[int]) -> None:
        """Hold the volumes of `cases` for a lane and no others; starts to load what is not there.

        A volume is dropped once no lane holds it.
        """
        before = self._kept.get(lane, ())
        self._kept[lane] = tuple(cases)
        for case in cases:
            if case not in self._volumes:
                self._volumes[case] = self._load(case)
        wanted = {case for kept in self._kept.values() for case in kept}
        for case in set(before) - wanted:
            self._volumes.pop(case).cancel()

    def read_patch(
        self, case: int, start_zyx: Size3, shape_zyx: Size3
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image and label of a box, as `Store.read_patch`; views of a kept volume."""
        return self._volume(case).patch(start_zyx, shape_zyx)

    def foreground(self, case: int, label_value: int) -> np.ndarray:
        """Return up to 1024 voxels of a label, int64 (n, 3) as z, y, x."""
        return self._volume(case).foreground(self.rows[case], label_value)

    def _volume(self, case: int) -> Volume:
        kept = self._volumes.get(case)
        return self._tars.read_volume(case) if kept is None else kept.result()

    def _load(self, case: int) -> Future[Volume]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(AHEAD, thread_name_prefix="volumes")
        return self._threads.submit(self._tars.read_volume, case)


class StreamedSource:
    """A source whose volumes are kept for as long as they are visited, and fetched ahead.

    Args:
        source: The patches.
        pools: What each data set of `source` reads from; None where that needs no help.
        sampler: That of `source`.
    """

    def __init__(
        self,
        source: MixedSource,
        pools: Sequence[PooledVolumes | None],
        sampler: SamplerConfig,
    ) -> None:
        self._source = source
        self._pools = tuple(pools)
        self._sampler = sampler

    def __getitem__(self, sample: int) -> Patch:
        """Read and augment patch number `sample`.

        Raises:
            DataError: Its volume cannot be fetched, or is damaged.
        """
        return self.raw(sample).augmented()

    def raw(self, sample: int, room: Room | None = None) -> RawPatch:
        """Read patch number `sample`, into `room` if it has that size.

        Raises:
            DataError: Its volume cannot be fetched, or is damaged.
        """
        lanes = self._sampler.volumes_at_once
        now, next_turn = (visit_of(s, self._sampler) for s in (sample, sample + lanes))
        visits = (now,) if next_turn == now else (now, next_turn)
        visited = [self._source.case(visit) for visit in visits]
        for number, pool in enumerate(self._pools):
            if pool is not None:
                pool.keep(sample % lanes, [case for part, case in visited if part == number])
        return self._source.raw(sample, room)

    def describe(self, sample: int) -> dict[str, Any]:
        """Return the draws of a patch as plain values that JSON can hold."""
        return self._source.describe(sample)

    def locate(self, sample: int) -> str:
        """Say where a patch comes from, for messages."""
        return self._source.locate(sample)
