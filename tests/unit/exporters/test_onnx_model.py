"""What ONNX Runtime computes from the file is what the network computes, at any size."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from stunet.bundle import Bundle, load_predictor
from stunet.errors import BundleError
from stunet.exporters.onnx_model import write_onnx
from stunet.types import Channel


@pytest.fixture(scope="module")
def two(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    channels = (Channel("CT", "zscore"), Channel("PET", "rescale"))
    return make_bundle(tmp_path_factory.mktemp("bundles") / "two", channels)


@pytest.fixture(scope="module")
def file(two: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(two, tmp_path_factory.mktemp("onnx") / "two.onnx")


@pytest.mark.parametrize("shape", [(1, 2, 32, 32, 64), (2, 2, 48, 32, 96)])
def test_parity_at_any_size(two: Bundle, file: Path, shape: tuple[int, ...]) -> None:
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = load_predictor(two).model(image).numpy()
    session = onnxruntime.InferenceSession(file)
    (logits,) = session.run(["logits"], {"image": image.numpy()})
    assert np.abs(logits - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert (logits.argmax(1) == wanted.argmax(1)).mean() > 0.9999


def test_the_file_says_how_it_is_used(two: Bundle, file: Path) -> None:
    session = onnxruntime.InferenceSession(file)
    (given,) = session.get_inputs()
    assert given.shape == ["batch", 2, "depth", "height", "width"]
    told = session.get_modelmeta().custom_metadata_map
    assert told["bundle_sha256"] == two.sha256
    assert json.loads(told["outputs"]) == {"background": 0, "liver": 1, "spleen": 2}
    assert json.loads(told["divisor"]) == [16, 16, 32]
    assert json.loads(told["preprocessing"])["spacing_mm"] == [3.0, 1.5, 1.25]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_refusals(two: Bundle, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="already there"):
        write_onnx(two, file)
    monkeypatch.setitem(sys.modules, "onnx", None)  # as where it is not installed
    with pytest.raises(BundleError, match=r"stunet\[onnx\]"):
        write_onnx(two, tmp_path / "x.onnx")
