"""Bundles on an S3 server: publish, load, interruptions, damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stunet
from stunet.bundle import read_bundle, write_bundle
from stunet.errors import BundleError, DataError
from stunet.hub.fetch import fetch
from stunet.hub.publish import Release, publish
from stunet.hub.url import BUNDLES
from stunet.inference.model_card import Provenance
from stunet.io.remote import StoreOptions
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing

STRIDES = ((2, 2, 2),) * 4 + ((1, 1, 2),)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = ModelConfig(size="XS", in_channels=1, classes=3, strides=STRIDES)
    channels = (Channel("CT", "ct", clip=(-900.0, 1200.0), mean=100.0, std=300.0),)
    preprocessing = Preprocessing((3.0, 1.5, 1.5), (32, 32, 64), channels)
    weights = build_model(model, seed=1).state_dict()
    return write_bundle(
        tmp_path_factory.mktemp("bundles") / "toy",
        model,
        preprocessing,
        {"background": 0, "liver": 1, "spleen": 2},
        weights,
        Provenance("MIT", (), {}, None, 7, {}, {}),
    )


@pytest.fixture
def place(s3: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    yield f"s3://data/{request.node.name}/toy"
    s3.behave()


def key(place: str, name: str) -> str:
    return f"{place.removeprefix('s3://data/')}/{name}"


def test_what_is_loaded_predicts_the_same_bits(
    bundle: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # the cache of `stunet.load`
    array = np.random.default_rng(0).normal(0, 400, (40, 30, 20)).astype(np.float32)
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    before = stunet.load(bundle).predict_array(array, affine)
    assert publish(bundle, place) == place
    assert len(np.unique(before)) == 3
    assert np.array_equal(stunet.load(place).predict_array(array, affine), before)


def test_an_interrupted_upload_goes_on_and_a_part_is_no_bundle(
    s3: Any, bundle: Path, place: str, options: StoreOptions
) -> None:
    release = Release(shard_bytes=4_000_000)
    publish(bundle, place, release, options)
    shards = read_bundle(fetch(place, options)).weight_files
    for name in ("SHA256SUMS", shards[-1]):  # what a killed process has not sent yet
        s3.delete(key(place, name))
    with pytest.raises(BundleError, match="has no SHA256SUMS"):
        fetch(place, options)
    s3.behave()
    publish(bundle, place, release, options)
    assert s3.counts()["put"] == 2
    assert read_bundle(fetch(place, options)).weight_files == shards
    with pytest.raises(BundleError, match="another bundle is there"):
        publish(bundle, place, Release(licence="CC0-1.0"), options)


def test_an_interrupted_download_goes_on_where_it_was(
    s3: Any, bundle: Path, place: str, options: StoreOptions
) -> None:
    publish(bundle, place, options=options)
    folder = fetch(place, options)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    begun = 10_000_000
    (folder / "model.safetensors.part").write_bytes(weights[:begun])
    s3.behave()
    assert fetch(place, options) == folder
    assert (folder / "model.safetensors").read_bytes() == weights
    assert s3.counts()["body_bytes"] < len(weights) - begun + 10_000  # and SHA256SUMS


def test_wrong_bytes_are_refused(s3: Any, bundle: Path, place: str, options: StoreOptions) -> None:
    publish(bundle, place, options=options)
    weights = bytearray((bundle / "model.safetensors").read_bytes())
    weights[-1] ^= 4
    s3.put(key(place, "model.safetensors"), bytes(weights))
    with pytest.raises(BundleError) as caught:
        fetch(place, options)
    message = str(caught.value)
    assert "\n" not in message
    assert "model.safetensors" in message
    assert "another checksum" in message
    (folder,) = (options.cache_folder / BUNDLES).glob("*/toy")
    assert not (folder / "model.safetensors").exists()
    publish(bundle, place, options=options)  # the same command again repairs it
    assert read_bundle(fetch(place, options)).sha256


def test_names_that_lead_elsewhere_are_not_fetched(
    s3: Any, bundle: Path, place: str, options: StoreOptions
) -> None:
    s3.put(key(place, "SHA256SUMS"), b"0" * 64 + b"  ../../x\n")
    with pytest.raises(BundleError, match="not a plain file name"):
        fetch(place, options)
    with pytest.raises(DataError, match="absent-bucket"):
        publish(bundle, "s3://absent-bucket/toy", options=options)
