"""Our side of reading, loading and augmenting patches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import zarr

from benchmarks.inputs import (
    BATCH,
    CLIP_HU,
    FOREGROUND,
    LABELS,
    MEAN_HU,
    PATCH,
    SPACING_MM,
    STD_HU,
)
from benchmarks.volumes import two_labels
from stunet.data.loader import LoaderConfig, batches
from stunet.data.patches import PatchSource
from stunet.data.sampler import SamplerConfig
from stunet.io.manifest import DatasetInfo
from stunet.io.store import Store, open_store
from stunet.io.store_writer import StoreWriter
from stunet.transforms.augment import AugmentConfig
from stunet.transforms.normalize import statistics
from stunet.types import CaseArrays, Channel

Turn = Callable[[], object]


def write_store(volumes: Path, root: Path, labels: int, codec: str = "local") -> Store:
    """Write all volumes of a folder into a store, with all labels or with two."""
    info = DatasetInfo(
        name="benchmark",
        channels=(Channel("CT", "ct", CLIP_HU, MEAN_HU, STD_HU),),
        spacing_mm=SPACING_MM,
        patch_size=PATCH,
        strides=((2, 2, 2),) * 5,
        labels={"background": 0, **{f"label_{value}": value for value in range(1, labels)}},
        ignore_label=None,
        licence="unknown",
        fingerprint={},
        versions={},
        codec=codec,
    )
    writer = StoreWriter(root, info)
    rows = []
    for file in sorted(volumes.glob("image_*.npy")):
        image = np.load(file)[None]
        label = np.load(file.with_name(file.name.replace("image", "label")))
        case = CaseArrays(
            case_id=file.stem,
            image_czyx=image,
            label_zyx=label if labels == LABELS else two_labels(label),
            affine=np.diag([*SPACING_MM, 1.0]),
            scale=(1.0,),
            offset=(0.0,),
            statistics=statistics(image.astype(np.float32)),
            split="train",
            source_sha256={},
        )
        rows.append(writer.write_case(case))
    writer.finish(rows)
    return open_store(root)


def reading(root: str, patches: int) -> Turn:
    """Read random boxes of image and label."""
    store = open_store(root)
    places = random_places(store)
    image = np.empty((1, *PATCH), np.int16)
    label = np.empty(PATCH, np.uint8)

    def turn() -> None:
        for case, start in islice(places, patches):
            store.read_image(case, start, PATCH, out=image)
            store.read_label(case, start, PATCH, out=label)

    return turn


def reading_with_zarr(root: str, patches: int) -> Turn:
    """Read as `reading` with zarr-python, which reads any store of ours."""
    store = open_store(root)
    arrays = [
        [zarr.open_array(f"{root}/{row.path}/{name}", mode="r") for name in ("image", "label")]
        for row in store.rows
    ]
    places = random_places(store)

    def turn() -> None:
        for case, start in islice(places, patches):
            box = tuple(slice(a, a + side) for a, side in zip(start, PATCH, strict=True))
            for array in arrays[case]:
                np.asarray(array[(slice(None),) * (array.ndim - 3) + box])

    return turn


def cold_reading(root: str, patches: int) -> Turn:
    """Read as `reading`, each time after the page cache was told to forget the store."""
    store = open_store(root)
    places = random_places(store)
    files = [file for file in Path(root).rglob("*") if file.is_file()]

    def turn() -> None:
        for case, start in islice(places, patches):
            store.close()
            for file in files:
                forget(file)
            store.read_image(case, start, PATCH)
            store.read_label(case, start, PATCH)

    return turn


def forget(file: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def random_places(store: Store) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Random cases and starts of patches, without end."""
    generator = np.random.default_rng(0)
    while True:
        case = int(generator.integers(len(store.rows)))
        sides = store.rows[case].shape_zyx
        z, y, x = (
            int(generator.integers(side - patch + 1))
            for side, patch in zip(sides, PATCH, strict=True)
        )
        yield case, (z, y, x)


def loading(root: str, patches: int, augment: bool) -> Turn:
    """Make batches in this process, with the default augmentation or without."""
    store = open_store(root)
    source = PatchSource(
        store,
        range(len(store.rows)),
        PATCH,
        0,
        SamplerConfig(foreground=FOREGROUND),
        AugmentConfig(enabled=augment),
    )
    stream = batches(source, BATCH, config=LoaderConfig(workers=0))

    def turn() -> None:
        for _ in range(patches // BATCH):
            next(stream)

    return turn
