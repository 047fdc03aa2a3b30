"""Reading patches of a store on an S3 server, ours and zarr-python's over s3fs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import zarr

from benchmarks.inputs import PATCH
from benchmarks.ours.data import random_places
from data_tools.copy_store import copy_store
from stunet.io.remote import StoreOptions
from stunet.io.store import open_store

Turn = Callable[[], object]


def copying(root: str, url: str, environment: Mapping[str, str]) -> Turn:
    """Copy a store to the server."""
    os.environ.update(environment)
    return lambda: copy_store(Path(root), url, StoreOptions()).copied


def reading(url: str, cache: str, patches: int, environment: Mapping[str, str]) -> Turn:
    """Read random boxes of image and label."""
    os.environ.update(environment)
    store = open_store(url, StoreOptions(cache_dir=cache))
    boxes = random_places(store)

    def turn() -> None:
        for case, start in islice(boxes, patches):
            store.read_patch(case, start, PATCH)

    return turn


def reading_with_zarr(url: str, cache: str, patches: int, environment: Mapping[str, str]) -> Turn:
    """Read as `reading` with zarr-python and s3fs, both arrays kept open."""
    os.environ.update(environment)
    store = open_store(url, StoreOptions(cache_dir=cache))
    arrays = [
        [zarr.open_array(f"{url}/{row.path}/{name}", mode="r") for name in ("image", "label")]
        for row in store.rows
    ]
    boxes = random_places(store)

    def turn() -> None:
        for case, start in islice(boxes, patches):
            box = tuple(slice(a, a + side) for a, side in zip(start, PATCH, strict=True))
            for array in arrays[case]:
                np.asarray(array[(slice(None),) * (array.ndim - 3) + box])

    return turn
