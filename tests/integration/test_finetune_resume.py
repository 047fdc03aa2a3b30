"""A fine-tuning run: what is frozen stays, and an interruption changes no bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune.config import FinetuneConfig
from stunet.bundle import load_predictor, load_weights, read_bundle, write_bundle
from stunet.inference.model_card import DataSource, Provenance
from stunet.io.manifest import DatasetInfo
from stunet.io.store_writer import StoreWriter
from stunet.models.lora import add_lora
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.training.export import export_run
from stunet.types import CaseArrays, Channel, ChannelStatistics, Preprocessing

STRIDES = ((2, 2, 2), (2, 2, 2), *((1, 1, 1),) * 3)
SOURCE = ModelConfig(size="XS", in_channels=1, classes=3, strides=STRIDES)
CHANNELS = (Channel("CT", "ct", (-1000.0, 900.0), 3.5, 200.0),)
LABELS = {"background": 0, "spleen": 1, "liver": 2}


def write_source(folder: Path) -> None:
    source = DataSource("Toy", licence="CC BY 4.0", cases=2, sha256="ab" * 32)
    provenance = Provenance("Apache-2.0", (source,), {}, None, 7, {}, {})
    preprocessing = Preprocessing((2.0, 2.0, 2.0), (16, 16, 16), CHANNELS)
    weights = build_model(SOURCE, seed=3).state_dict()
    write_bundle(folder, SOURCE, preprocessing, LABELS, weights, provenance)


def write_store(folder: Path) -> None:
    labels = {"background": 0, "liver": 1, "tumour": 2}
    info = DatasetInfo(
        *("small", CHANNELS, (2.0, 2.0, 2.0), (16, 16, 16), STRIDES, labels, None, "MIT", {}, {})
    )
    label = np.zeros((20, 24, 22), np.uint8)
    label[4:16, 4:12, 4:20] = 1
    label[8:12, 6:10, 8:12] = 2
    image = np.random.default_rng(0).integers(-300, 300, label.shape) + 300 * label.astype(int)
    case = CaseArrays(
        *("a", image.astype(np.int16)[None], label, np.diag([2.0, 2, 2, 1]), (1.0,), (0.0,)),
        statistics=(ChannelStatistics(0.0, 200.0, -300.0, 900.0),),
        split="train",
        source_sha256={"ct": "0" * 64},
    )
    writer = StoreWriter(folder, info)
    writer.finish([writer.write_case(case)])


def finetune(folder: Path, run: str) -> str:
    """Start a run in a process of its own; return what it printed."""
    worker = Path(__file__).with_name("finetune_worker.py")
    return subprocess.run(
        [sys.executable, str(worker), str(folder), run],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(worker.parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        timeout=200,
    ).stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `whole` of four steps and `broken`, which lost its last two and took them again."""
    folder = tmp_path_factory.mktemp("finetune")
    write_source(folder / "bundle")
    write_store(folder / "store")
    assert "step 4/4" in finetune(folder, "whole")
    shutil.copytree(folder / "whole", folder / "broken")
    shutil.rmtree(folder / "broken" / "checkpoints" / "step_000004")
    told = finetune(folder, "broken")
    assert "step 3/4" in told and "step 2/4" not in told
    return folder


def test_an_interruption_changes_no_bit(runs: Path) -> None:
    whole, broken = (runs / run / "checkpoints" / "step_000004" for run in ("whole", "broken"))
    files = sorted(path.name for path in whole.glob("*.safetensors"))
    assert len(files) == 3  # weights, optimiser state, average
    for name in files:
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name


def test_what_is_frozen_stays_and_the_rest_moves(runs: Path) -> None:
    source = load_weights(read_bundle(runs / "bundle"))
    found = load_file(next((runs / "whole/checkpoints/step_000004").glob("*weights*")))
    moved = {name for name, t in found.items() if name not in source or not t.equal(source[name])}
    heads = {name for name in moved if name.startswith("seg_outputs")}
    assert {name.rpartition(".")[2] for name in moved - heads} == {"lora_down", "lora_up"}
    assert all(float(found[name].abs().max()) > 0 for name in moved)
    assert any(name.startswith("seg_outputs.4") for name in heads)
    told = json.loads((runs / "whole" / "transfer.json").read_text())
    assert told["structures"] == {
        "background": ["background"],
        "liver": ["liver"],
        "tumour": [],
    }


def test_the_exported_network_is_plain_and_computes_what_was_trained(runs: Path) -> None:
    bundle = export_run(runs / "whole", runs / "exported", FinetuneConfig, weights="last")
    assert [source.name for source in read_bundle(bundle).provenance.data] == ["Toy", "small"]
    plain = load_predictor(bundle).model
    trained = build_model(SOURCE, seed=0)
    add_lora(trained, 2, 0, lambda name: not name.startswith(("conv_blocks_context", "seg_")))
    checkpoint = runs / "whole/checkpoints/step_000004"
    trained.load_state_dict(load_file(next(checkpoint.glob("*weights*"))))
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain(image), trained.eval()(image))
