"""A published bundle is the bundle, whole, or nothing is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.publish import publish
from stunet.bundle import read_bundle, write_bundle
from stunet.errors import BundleError
from stunet.inference.model_card import Provenance
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing


def make_bundle(folder: Path, seed: int) -> Path:
    strides = ((2, 2, 2),) * 4 + ((1, 1, 2),)
    model = ModelConfig(size="XS", in_channels=1, classes=2, strides=strides)
    channels = (Channel("CT", "ct", clip=(-900.0, 1200.0), mean=100.0, std=300.0),)
    preprocessing = Preprocessing((3.0, 1.5, 1.5), (32, 32, 64), channels)
    provenance = Provenance("MIT", (), {}, None, 7, {}, {})
    weights = build_model(model, seed=seed).state_dict()
    labels = {"background": 0, "liver": 1}
    return write_bundle(folder, model, preprocessing, labels, weights, provenance)


def test_only_the_files_of_the_bundle_arrive(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", seed=1)
    (bundle / "notes.txt").write_text("not for others")
    released = publish(bundle, tmp_path / "hub" / "ours")
    assert read_bundle(released).sha256 == read_bundle(bundle).sha256
    assert {p.name for p in bundle.iterdir()} - {p.name for p in released.iterdir()} == {
        "notes.txt"
    }
    assert publish(bundle, released) == released  # the same command again


def test_a_damaged_bundle_leaves_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", seed=1)
    with (bundle / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        publish(bundle, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_another_bundle_is_not_overwritten(tmp_path: Path) -> None:
    first = publish(make_bundle(tmp_path / "a", seed=1), tmp_path / "ours")
    before = read_bundle(first).sha256
    with pytest.raises(BundleError, match="another bundle is there"):
        publish(make_bundle(tmp_path / "b", seed=2), first)
    assert read_bundle(first).sha256 == before
