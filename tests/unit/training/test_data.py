"""The data of a run: what may be trained on together, and the batches that come of it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from data_tools.shard import ShardConfig, shard
from pretrain.config import PretrainConfig
from stunet.data.loader import LoaderConfig, batches
from stunet.data.patches import PatchSource
from stunet.data.sampler import SamplerConfig
from stunet.errors import ConfigError, DataError
from stunet.io.manifest import DatasetInfo
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter
from stunet.training.data import open_data, patch_source, training_batches
from stunet.training.recipe import StoreShare, model_config
from stunet.transforms.augment import AugmentConfig
from stunet.types import Batch, CaseArrays, Channel

MakeCase = Callable[..., CaseArrays]
STAY = AugmentConfig(enabled=False)


@pytest.fixture
def make_store(
    make_info: Callable[..., DatasetInfo], make_case: MakeCase, tmp_path: Path
) -> Callable[..., Path]:
    def make(name: str, annotated: tuple[int, ...] | None = None, **changes: Any) -> Path:
        root, info = tmp_path / name, replace(make_info(), name=name, **changes)
        writer = StoreWriter(root, info)
        partly = replace(make_case(f"{name}2", seed=2), annotated=annotated)
        writer.finish([writer.write_case(case) for case in (make_case(f"{name}1"), partly)])
        return root

    return make


def config(*paths: Path, **changes: Any) -> PretrainConfig:
    shares = tuple(StoreShare(str(path), weight) for weight, path in enumerate(paths, start=1))
    loader = LoaderConfig(workers=0)
    patch = (16, 16, 16)
    return PretrainConfig(
        **{"out": "o", "mixture": shares, "loader": loader, "patch_size": patch, **changes}
    )


def test_weights_decide_how_often_each_store_comes(make_store: Callable[..., Path]) -> None:
    recipe = config(make_store("a"), make_store("b"), augment=STAY)
    data = open_data(recipe)
    assert (data.info.name, data.weights) == ("a + b", (1, 2))
    with closing(training_batches(data, recipe, 0)) as stream:
        ids = [case for batch in islice(stream, 15) for case in batch.case_ids]
    assert sorted(ids) == ["a1"] * 5 + ["a2"] * 5 + ["b1"] * 10 + ["b2"] * 10


def test_the_normalisation_of_the_first_store_holds_for_all(
    make_store: Callable[..., Path],
) -> None:
    other = (Channel("CH0", "ct", (-5.0, 5.0), 0.0, 1.0),)
    first, second = make_store("a"), make_store("b", channels=other)
    mixed = open_data(config(first, second))
    assert mixed.parts[1].info.channels == mixed.info.channels == open_store(first).info.channels


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"labels": {"background": 0, "liver": 2, "spleen": 1, "dot": 7}},
            "structure 'liver' is label 2, not label 1 as in",
        ),
        (
            {"labels": {"background": 0, "liver": 1, "spleen": 2, "dot": 7, "lung": 3}},
            "structure 'lung' is label 3, not absent as in",
        ),
        ({"spacing_mm": (3.0, 1.5, 1.26)}, "spacing is 3 x 1.5 x 1.26 mm, not 3 x 1.5 x 1.25 mm"),
        ({"channels": (Channel("MR", "zscore"),)}, r"channels are MR \(zscore\), not CH0 \(ct\)"),
        (
            {"regions": {"both": (1, 2)}, "regions_class_order": (1,)},
            r"regions are both of \[1, 2\] painted 1, not none as",
        ),
    ],
)
def test_stores_that_mean_different_things_are_not_mixed(
    make_store: Callable[..., Path], changes: dict[str, Any], told: str
) -> None:
    first, second = make_store("a"), make_store("b", **changes)
    with pytest.raises(DataError, match=told) as refused:
        open_data(config(first, second))
    assert "\n" not in str(refused.value) and str(second) in str(refused.value)


def test_regions_in_another_order_are_other_outputs(make_store: Callable[..., Path]) -> None:
    both, spleen = {"both": (1, 2)}, {"spleen": (2,)}
    first = make_store("a", regions=both | spleen, regions_class_order=(1, 2))
    second = make_store("b", regions=spleen | both, regions_class_order=(2, 1))
    third = make_store("c", regions=both | spleen, regions_class_order=(1, 2))
    with pytest.raises(DataError, match=r"are spleen of \[2\] painted 2, both .* not both of"):
        open_data(config(first, second))
    assert open_data(config(first, third)).info.outputs == {"both": 0, "spleen": 1}


def test_the_network_has_an_output_per_region(
    make_store: Callable[..., Path], make_info: Callable[..., DatasetInfo]
) -> None:
    def classes(**changes: Any) -> int:
        store = make_store("a", **changes)
        recipe = config(store, out="o")
        return model_config(recipe, open_store(store).info).classes

    assert classes() == 8
    regions = {"both": (1, 2), "dot": (7,)}
    assert classes(regions=regions, regions_class_order=(1, 7)) == 2
    assert classes(regions={"both": (1, 2)}, regions_class_order=(2,)) == 1
    with pytest.raises(ConfigError, match="prepare it with a structure to learn"):
        model_config(config("s"), replace(make_info(), labels={"background": 0}))


def test_a_region_is_annotated_if_all_its_labels_are(make_store: Callable[..., Path]) -> None:
    regions = {"both": (1, 2), "dot": (7,), "liver": (1,), "odd": (1, 7)}
    path = make_store("a", annotated=(1, 7), regions=regions, regions_class_order=(1, 7, 2, 0))
    source = PatchSource(open_store(path), (0, 1), (16, 16, 16), 0, SamplerConfig(), STAY)
    with closing(batches(source, 2, config=LoaderConfig(workers=0))) as stream:
        batch = next(stream)
    assert batch.annotated_bk is not None
    rows = dict(zip(batch.case_ids, batch.annotated_bk.tolist(), strict=True))
    assert rows == {"a1": [True] * 4, "a2": [False, True, True, True]}


def test_batches_tell_which_classes_are_annotated(make_store: Callable[..., Path]) -> None:
    store = open_store(make_store("a", annotated=(1, 7)))

    def first_batch(*cases: int) -> Batch:
        source = PatchSource(store, cases, (16, 16, 16), 0, SamplerConfig(), STAY)
        with closing(batches(source, 2, config=LoaderConfig(workers=0))) as stream:
            return next(stream)

    assert first_batch(0).annotated_bk is None
    batch = first_batch(0, 1)
    assert batch.annotated_bk is not None and batch.annotated_bk.shape == (2, 8)
    rows = dict(zip(batch.case_ids, batch.annotated_bk, strict=True))
    assert rows["a1"].all()
    assert torch.equal(rows["a2"].nonzero()[:, 0], torch.tensor([0, 1, 7]))


def test_a_run_may_move_from_a_store_to_its_tars(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_store("a")
    tars = shard(root, tmp_path / "tars", ShardConfig(), lambda *done: None)
    sampler = SamplerConfig(patches_per_volume=4, volumes_at_once=4)
    recipes = [config(place, sampler=sampler) for place in (root, tars)]
    stored, streamed = (open_data(recipe) for recipe in recipes)
    assert stored.content == streamed.content and stored.info == streamed.info
    ours, theirs = (
        patch_source(data, recipe) for data, recipe in zip((stored, streamed), recipes, strict=True)
    )
    for sample in (0, 5, 2):
        assert torch.equal(ours[sample].image_cdhw, theirs[sample].image_cdhw)


def test_another_split_is_another_content(
    make_store: Callable[..., Path], make_case: MakeCase, tmp_path: Path
) -> None:
    root = make_store("a")
    before = open_data(config(root)).content
    store = open_store(root)
    moved = [replace(store.rows[0], split="val"), store.rows[1]]
    StoreWriter(root, store.info).finish(moved)
    assert open_data(config(root)).content != before
    shutil.rmtree(root)


def test_lanes_that_split_volumes_over_ranks_are_refused_and_over_workers_told(
    make_store: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tars = shard(make_store("a"), tmp_path / "tars", ShardConfig(), lambda *done: None)
    recipe = config(tars, global_batch=3)
    with pytest.raises(ConfigError, match=r"volumes_at_once=16 .* global_batch=3.* e.g. 18"):
        training_batches(open_data(recipe), recipe, 0)
    six = SamplerConfig(volumes_at_once=6)
    recipe = config(tars, global_batch=2, sampler=six, loader=LoaderConfig(workers=2))
    with caplog.at_level(logging.WARNING):
        training_batches(open_data(recipe), recipe, 0).close()
    assert "loader.workers=2" in caplog.text and "divisor of 3" in caplog.text
