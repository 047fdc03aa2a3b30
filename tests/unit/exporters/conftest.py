from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stunet.bundle import Bundle, read_bundle, write_bundle
from stunet.inference.model_card import DataSource, Provenance
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing

CT = Channel("CT", "ct", clip=(-900.0, 1200.0), mean=100.0, std=300.0)


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    def make(folder: Path, channels: tuple[Channel, ...] = (CT,)) -> Bundle:
        strides = ((2, 2, 2),) * 4 + ((1, 1, 2),)
        model = ModelConfig(size="XS", in_channels=len(channels), classes=3, strides=strides)
        preprocessing = Preprocessing((3.0, 1.5, 1.25), (32, 32, 64), channels)
        provenance = Provenance(
            "CC-BY-4.0", (DataSource("Toy", "CC BY 4.0", 2, "ab" * 32),), {}, None, 7, {}, {}
        )
        weights = build_model(model, seed=1).state_dict()
        labels = {"background": 0, "liver": 1, "spleen": 2}
        write_bundle(folder, model, preprocessing, labels, weights, provenance)
        return read_bundle(folder)

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "toy")
