from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stunet.io.remote import StoreOptions
from stunet.io.shard_cache import STALE_S
from stunet.io.store import Store, open_store


@pytest.fixture
def options(small_store: Any, tmp_path: Path) -> StoreOptions:
    """Room for one case of two and a little more."""
    sizes = [
        sum(record.bytes for name, record in row.files.items() if "/c/" in name)
        for row in open_store(small_store.root).rows
    ]
    return StoreOptions(cache_dir=str(tmp_path / "cache"), cache_bytes=max(sizes) + 5000)


def read_for_ever(url: str, options: StoreOptions, started: Any) -> None:
    store = open_store(url, options)
    while True:
        for case in (0, 1):
            store.read_patch(case, (0, 0, 0), store.rows[case].shape_zyx)
            store.close()
        started.set()


def check_all(store: Store, small_store: Any) -> None:
    for case, arrays in enumerate(small_store.cases):
        image, label = store.read_patch(case, (0, 0, 0), arrays.label_zyx.shape)
        np.testing.assert_array_equal(image, arrays.image_czyx)
        np.testing.assert_array_equal(label, arrays.label_zyx)
        store.close()


def test_processes_may_share_it_and_be_killed(small_store: Any, options: StoreOptions) -> None:
    url = f"file://{small_store.root}"
    context = multiprocessing.get_context("spawn")
    started = [context.Event() for _ in range(2)]
    others = [
        context.Process(target=read_for_ever, args=(url, options, event)) for event in started
    ]
    for process in others:
        process.start()
    store = open_store(url, options)
    try:
        for event in started:
            assert event.wait(60)
        for _ in range(20):
            check_all(store, small_store)
        assert all(process.is_alive() for process in others)  # none met a copy that vanished
    finally:
        for process in others:
            process.kill()
            process.join()
    check_all(store, small_store)


def test_what_killed_processes_left_is_removed_in_time(
    small_store: Any, options: StoreOptions
) -> None:
    store = open_store(f"file://{small_store.root}", options)
    check_all(store, small_store)
    shards = options.cache_folder / "shards"
    old, new = shards / ".a.0123abcd.tmp", shards / ".b.0123abcd.tmp"
    old.touch()
    new.touch()
    long_ago = time.time() - STALE_S - 10
    os.utime(old, (long_ago, long_ago))
    check_all(store, small_store)
    assert not old.exists()
    assert new.exists()


def test_the_least_recently_used_copy_goes(small_store: Any, options: StoreOptions) -> None:
    row = open_store(small_store.root).rows[0]
    needed = row.files["image/c/0/0/0/0"].bytes + row.files["label/c/0/0/0"].bytes
    options = StoreOptions(cache_dir=options.cache_dir, cache_bytes=needed)
    store = open_store(f"file://{small_store.root}", options)
    copies = options.cache_folder / "shards"

    def read(name: str, case: int) -> set[Path]:
        getattr(store, f"read_{name}")(case, (30, 30, 30), (3, 9, 9))
        store.close()
        return set(copies.iterdir())

    label_0 = read("label", 0)
    label_1 = read("label", 1) - label_0
    read("label", 0)  # used again, so that the other one is older
    held = read("image", 0)
    assert label_0 < held
    assert not label_1 & held
