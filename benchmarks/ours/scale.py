"""Draws and manifests of data sets far larger than a benchmark could store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count, islice
from pathlib import Path

from benchmarks.inputs import FOREGROUND, PATCH
from stunet.data.patches import PatchSource
from stunet.data.sampler import SamplerConfig
from stunet.io.checksum import checksum_file
from stunet.io.manifest import MANIFEST, CaseRow
from stunet.io.manifest_rows import read_rows, splits
from stunet.io.store import Store, open_store
from stunet.transforms.augment import AugmentConfig


def write_manifest(root: Path, folder: Path, cases: int) -> None:
    """Write a manifest of `cases` lines, each like the first one of a store."""
    row = open_store(root).rows[0]
    line, name = row.to_line(), row.case_id.encode()
    folder.mkdir()
    with (folder / MANIFEST).open("wb") as file:
        file.writelines(line.replace(name, b"case_%07d" % case) for case in range(cases))


def drawing(root: str, manifest: str, patches: int) -> Callable[[], None]:
    """Make all draws of some patches out of the cases of a manifest beside a store."""
    rows = read_rows(Path(manifest))
    source = PatchSource(
        Store(Path(root), open_store(root).info, rows),
        range(len(rows)),
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


def opening(manifest: str) -> Callable[[], int]:
    """Do what `open_store` does with a manifest, and find the cases to train on."""
    kept: list[Sequence[CaseRow]] = []

    def turn() -> int:
        checksum_file(Path(manifest) / MANIFEST)
        kept[:] = [read_rows(Path(manifest))]
        return sum(split == "train" for split in splits(kept[0]))

    return turn
