"""The Hub's stand-in, the client's settings for it, and small bundles."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from stunet.bundle import write_bundle
from stunet.inference.model_card import DataSource, Provenance
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing
from tests.integration.hub.stand_in import Hub

STRIDES = ((2, 2, 2),) * 4 + ((1, 1, 2),)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running stand-in; the environment is what a user would set for it, for children too."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        home = tmp_path / "hf"
        for name, value in {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": "hf_standin",
        }.items():
            monkeypatch.setenv(name, value)
        # The client has read its environment when it was imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        files = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server
        server.shutdown()
        thread.join()
        assert server.mistakes == []


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    def make(
        folder: Path, seed: int = 1, licence: str = "CC-BY-4.0", data_licence: str = "CC BY 4.0"
    ) -> Path:
        model = ModelConfig(size="XS", in_channels=1, classes=3, strides=STRIDES)
        channels = (Channel("CT", "ct", clip=(-900.0, 1200.0), mean=100.0, std=300.0),)
        preprocessing = Preprocessing((3.0, 1.5, 1.5), (32, 32, 64), channels)
        data = (DataSource("Toy", data_licence, cases=2, sha256="ab" * 32),)
        metrics = {"Toy val": {"dice": 0.75}}
        provenance = Provenance(licence, data, {}, None, 7, metrics, {"torch": torch.__version__})
        labels = {"background": 0, "liver": 1, "spleen": 2}
        weights = build_model(model, seed=seed).state_dict()
        return write_bundle(folder, model, preprocessing, labels, weights, provenance)

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "toy")
