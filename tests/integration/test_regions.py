"""A data set of regions from its raw folder to scores, with three steps of training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from data_tools.ingest import ingest
from data_tools.plan import PlanConfig
from data_tools.prepare import PrepareConfig, prepare
from finetune.transfer import TransferOptions, transfer
from pretrain.config import PretrainConfig
from stunet.bundle import Bundle, load_predictor, read_bundle
from stunet.inference.sliding_window import WindowOptions
from stunet.io.volume import read_image
from stunet.training.export import export_run
from stunet.types import RawDataset, Region

SIDE = 32
LABELS = {"background": 0, "whole": [1, 2, 4], "core": [2, 4], "active": 4, "ignore": 5}
RUN = """
import sys
from pretrain.config import PretrainConfig
from pretrain.train import train
from stunet.data.loader import LoaderConfig
from stunet.engine.loop import LoopConfig
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig
from stunet.training.recipe import NetworkConfig

train(
    PretrainConfig(
        out=sys.argv[2],
        store=sys.argv[1],
        network=NetworkConfig(size="XS"),
        loader=LoaderConfig(workers=0),
        optim=OptimConfig(name="adamw", lr=0.01, total_steps=3),
        parallel=ParallelConfig(micro_batch=2, precision="fp32"),
        loop=LoopConfig(log_every=1, validate_every=3),
    )
)
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> RawDataset:
    """Three nested boxes with a noisy image, in nnU-Net's raw layout; in `a` no box is active."""
    root = tmp_path_factory.mktemp("boxes")
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    for seed, case_id in enumerate("abc"):
        label = np.zeros((SIDE,) * 3, np.uint8)
        label[4:28, 5:27, 6:26], label[9:22, 10:22, 11:22], label[12:17, 13:18, 14:19] = 1, 2, 4
        label[label == 4] = 2 if case_id == "a" else 4
        image = label + np.random.default_rng(seed).normal(size=label.shape)
        label[:2] = 5
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)),
                 root / "imagesTr" / f"{case_id}_0000.nii.gz")  # fmt: skip
        nib.save(nib.Nifti1Image(label, np.eye(4)), root / "labelsTr" / f"{case_id}.nii.gz")
    declared = {
        "channel_names": {"0": "MR"},
        "labels": LABELS,
        "regions_class_order": [1, 2, 4],
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(declared))
    folds = [{"train": ["b", "c"], "val": ["a"]}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    return ingest(root)


@pytest.fixture(scope="module")
def run(raw: RawDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps."""
    folder = tmp_path_factory.mktemp("training")
    plan = PlanConfig(spacing_mm=(1.0,) * 3, patch_size=(SIDE,) * 3)
    store = prepare(raw, folder / "store", PrepareConfig(plan=plan, workers=0))
    subprocess.run(
        [sys.executable, "-c", RUN, str(store), str(folder / "run")],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=200,
    )
    return folder / "run"


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundles") / "boxes"
    return read_bundle(export_run(run, out, PretrainConfig))


def test_training_scores_regions(run: Path, bundle: Bundle, raw: RawDataset) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 3 and all(0 < loss < 10 for loss in losses)
    scores = {
        name.removeprefix("val_dice/"): value
        for row in rows
        for name, value in row.items()
        if name.startswith("val_dice")
    }
    mean, scored = scores.pop("val_dice"), []
    label = np.asarray(nib.load(str(raw.cases[0].label)).dataobj).T
    found = load_predictor(bundle).predict_volume(read_image(raw.cases[0].images[0]))
    for name, values in (("whole", (1, 2, 4)), ("core", (2, 4)), ("active", (4,))):
        inside, true = (np.isin(map_, values)[label != 5] for map_ in (found, label))
        both = inside.sum() + true.sum()
        expected = 2 * (inside & true).sum() / both if both else None
        assert scores.pop(name) == pytest.approx(expected, abs=1e-3)  # the store rounds intensities
        scored += [] if expected is None else [expected]
    assert not scores and mean == pytest.approx(np.mean(scored), abs=1e-3)


def test_the_bundle_says_what_its_outputs_are(bundle: Bundle) -> None:
    assert bundle.model.classes == 3
    assert bundle.regions == (
        Region("whole", (1, 2, 4), 1), Region("core", (2, 4), 2), Region("active", (4,), 4)
    )  # fmt: skip
    assert bundle.outputs == {"whole": 0, "core": 1, "active": 2}
    assert bundle.labels == {"background": 0, "label_1": 1, "label_2": 2, "active": 4}


def test_prediction_paints_the_regions(bundle: Bundle, raw: RawDataset, tmp_path: Path) -> None:
    predictor = load_predictor(bundle)
    scan = Path(raw.cases[0].images[0])
    image = nib.load(scan).get_fdata(dtype=np.float32).T
    image = torch.from_numpy((image - image.mean()) / image.std())[None, None]
    with torch.no_grad():  # three steps find little: half of the voxels shall be in each region
        predictor.model.head.bias -= predictor.model(image)[0].flatten(1).median(1).values
        logits = predictor.model(image)[0].numpy()
    predictor.predict_file(scan, tmp_path / "a.nii.gz")
    expected = np.zeros(logits.shape[1:], np.uint8)
    for probability, value in zip(1 / (1 + np.exp(-logits)), (1, 2, 4), strict=True):
        expected[probability > 0.5] = value
    found = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj).T
    assert set(np.unique(expected)) == {0, 1, 2, 4}
    assert (found != expected).mean() < 1e-4  # a logit within rounding of 0


def test_transfer_scores_the_label_map(bundle: Bundle, raw: RawDataset, tmp_path: Path) -> None:
    options = TransferOptions(only=["b"], window=WindowOptions(step=1.0))
    (score,) = transfer(bundle, [raw], tmp_path, options)
    assert [s.name for s in score.matching.scored] == ["label_1", "label_2", "active"]
    assert len(score.cases) == 1
