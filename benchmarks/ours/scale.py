"""Draws and manifests of data sets far larger than a benchmark could store."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

from benchmarks.inputs import FOREGROUND, PATCH
from stunet.data.patches import PatchSource
from stunet.data.sampler import SamplerConfig
from stunet.io.manifest import MANIFEST, CaseRow, read_rows
from stunet.io.store import Store, open_store
from stunet.transforms.augment import AugmentConfig


def drawing(root: str, cases: int, patches: int) -> Callable[[], None]:
    """Make all draws of some patches, as if the rows of a store were repeated up to `cases`."""
    store = open_store(root)
    rows = tuple(store.rows[case % len(store.rows)] for case in range(cases))
    source = PatchSource(
        Store(Path(root), store.info, rows),
        range(cases),
        PATCH,
        0,
        SamplerConfig(foreground=FOREGROUND),
        AugmentConfig(),
    )
    numbers = count()

    def turn() -> None:
        for sample in islice(numbers, patches):
            source.draw(sample)

    return turn


def opening(root: str, cases: int, folder: str) -> Callable[[], int]:
    """Read a manifest of `cases` lines, each like the first one of a store; they stay in memory."""
    row = open_store(root).rows[0]
    line, name = row.to_line(), row.case_id.encode()
    Path(folder).mkdir()
    with (Path(folder) / MANIFEST).open("wb") as file:
        file.writelines(line.replace(name, b"case_%07d" % case) for case in range(cases))
    kept: list[tuple[CaseRow, ...]] = []

    def turn() -> int:
        kept[:] = [read_rows(Path(folder))]
        return len(kept[0])

    return turn
