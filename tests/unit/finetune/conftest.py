"""A small bundle of random weights and a store to fine-tune it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stunet.bundle import Bundle, read_bundle, write_bundle
from stunet.inference.model_card import DataSource, Provenance
from stunet.io.manifest import DatasetInfo
from stunet.io.store_writer import StoreWriter
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import CaseArrays, Channel, Preprocessing

STRIDES = ((2, 2, 2), (2, 2, 2), *((1, 1, 1),) * 3)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model = ModelConfig(size="XS", in_channels=1, classes=3, strides=STRIDES)
    preprocessing = Preprocessing(
        (3.0, 1.5, 1.25), (16, 16, 16), (Channel("CT", "ct", (-900.0, 1200.0), 100.0, 300.0),)
    )
    source = DataSource("Toy", licence="CC BY 4.0", cases=2, sha256="ab" * 32)
    provenance = Provenance("Apache-2.0", (source,), {}, None, 7, {}, {})
    labels = {"background": 0, "spleen": 1, "kidney": 2}
    weights = build_model(model, seed=3).state_dict()
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    return read_bundle(write_bundle(folder, model, preprocessing, labels, weights, provenance))


@pytest.fixture
def make_store(
    make_info: Callable[..., DatasetInfo], make_case: Callable[..., CaseArrays], tmp_path: Path
) -> Callable[..., Path]:
    def make(channel_count: int = 1, **changes: Any) -> Path:
        root, info = (
            tmp_path / "store",
            replace(make_info(channel_count), strides=STRIDES, **changes),
        )
        writer = StoreWriter(root, info)
        cases = [make_case(name, channels=channel_count) for name in ("a", "b")]
        writer.finish([writer.write_case(case) for case in cases])
        return root

    return make
