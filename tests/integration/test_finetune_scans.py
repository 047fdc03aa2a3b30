"""Real scans that differ from what a one-channel CT bundle was trained on, fine-tuned end to end.

Anisotropic spinal-cord MR, and CT with PET that lies on a grid of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stunet
from data_tools.align import align, resample_onto
from data_tools.ingest import ingest
from data_tools.plan import PlanConfig
from data_tools.plan_from import bundle_plan
from data_tools.prepare import PrepareConfig, prepare
from finetune.config import FinetuneConfig
from stunet.bundle import read_bundle, write_bundle
from stunet.inference.model_card import DataSource, Provenance
from stunet.io.volume import read_image
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.training.export import export_run
from stunet.types import Channel, Preprocessing

STRIDES = (*((2, 2, 2),) * 3, *((1, 1, 1),) * 2)
THIN = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1))
CT = Channel("image", "ct", (-992.0, 1550.0), 162.3, 436.0)
BUDGET = (
    *("optim.total_steps=2", "optim.warmup_steps=0", "global_batch=1", "loader.workers=0"),
    *("parallel.precision=fp32", "loop.log_every=1", "loop.validate_every=2", "validation.step=1"),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = ModelConfig(size="XS", in_channels=1, classes=3, strides=STRIDES)
    preprocessing = Preprocessing((4.0, 4.0, 4.0), (32, 32, 32), (CT,))
    provenance = Provenance("MIT", (DataSource("heads", "MIT", 3, "ab" * 32),), {}, None, 1, {}, {})
    labels = {"background": 0, "brainstem": 1, "spinal_cord": 2}
    weights = build_model(model, seed=1).state_dict()
    folder = tmp_path_factory.mktemp("bundles") / "heads"
    return write_bundle(folder, model, preprocessing, labels, weights, provenance)


def finetune(run: Path, *values: str) -> tuple[str, dict[str, Any]]:
    """Fine-tune by the command; what it printed, and its table of tensors."""
    command = [sys.executable, "-m", "launch.cli", "finetune", "finetune/full", f"out={run}"]
    done = subprocess.run(
        [*command, *BUDGET, *values],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((run / "transfer.json").read_text())


def test_thick_slices_of_mr_start_from_ct_weights(
    shared_data: Path, bundle: Path, tmp_path: Path
) -> None:
    source, raw = shared_data / "finetune" / "sct_spinalcord_mr", tmp_path / "raw"
    for name, image, label in (
        ("t2s", "t2s/t2s.nii.gz", "t2s/t2s_seg.nii.gz"),
        ("mt", "mt/mt1.nii.gz", "mt/mt1_seg.nii.gz"),
    ):
        link(raw / "images" / f"{name}.nii.gz", source / image)
        link(raw / "labels" / f"{name}.nii.gz", source / label)
    (raw / "labels.json").write_text('{"background": 0, "spinal_cord": 1}')
    plan = PlanConfig(spacing_mm=(7.5, 0.5, 0.5), patch_size=(8, 32, 32), strides=THIN)
    store = prepare(ingest(raw), tmp_path / "store", PrepareConfig(plan=plan, holdout=1))
    told, table = finetune(
        tmp_path / "run",
        *(f"init={bundle}", f"store={store}", "plan=target"),
        f"network.strides={[list(step) for step in THIN]}",
    )
    assert "spacing: store 7.5 x 0.5 x 0.5, bundle 4 x 4 x 4; trained with 7.5 x 0.5 x 0.5" in told
    assert "strides: store 122 122 222 111 111, bundle 222" in told and "val_dice" in told
    assert table["structures"]["spinal_cord"] == ["spinal_cord"]
    out = export_run(tmp_path / "run", tmp_path / "tuned", FinetuneConfig)
    assert read_bundle(out).preprocessing.spacing_mm == (7.5, 0.5, 0.5)
    assert [source.name for source in read_bundle(out).provenance.data] == ["heads", "raw"]
    scan = source / "t2s" / "t2s.nii.gz"
    stunet.load(out).predict_file(scan, tmp_path / "found.nii.gz")
    found, image = read_image(tmp_path / "found.nii.gz"), read_image(scan)
    assert found.shape_zyx == image.shape_zyx == (9, 54, 49)
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)


def test_ct_and_pet_start_from_one_channel(shared_data: Path, bundle: Path, tmp_path: Path) -> None:
    source, raw = shared_data / "finetune" / "sts_ct_mr_pet", tmp_path / "raw"
    for case in ("STS_008", "STS_019"):
        link(raw / "imagesTr" / f"{case}_0000.nii.gz", source / case / "CT_image.nii.gz")
        link(raw / "imagesTr" / f"{case}_0001.nii.gz", source / case / "PET_image.nii.gz")
        link(raw / "labelsTr" / f"{case}.nii.gz", source / case / "CT_mask.nii.gz")
    declared = {
        "name": "sarcoma",
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "tumour": 1},
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(declared))
    aligned = ingest(align(ingest(raw), tmp_path / "aligned"))
    config = PrepareConfig(holdout=1)
    store = prepare(aligned, tmp_path / "store", config, source=bundle_plan(str(bundle)))
    told, table = finetune(tmp_path / "run", f"init={bundle}", f"store={store}")
    assert "trained with CT (ct, -992 to 1550, mean 162.3, std 436), PET (zscore)" in told
    inflated = [tensor for tensor in table["tensors"] if tensor["what"] == "inflated"]
    assert [tensor["shape"] for tensor in inflated] == ["8 x 2 x 3 x 3 x 3", "8 x 2 x 1 x 1 x 1"]
    out = export_run(tmp_path / "run", tmp_path / "tuned", FinetuneConfig)
    found = read_bundle(out)
    assert found.model.in_channels == 2 and found.preprocessing.channels[0].clip == (-992.0, 1550.0)


def test_pet_is_laid_where_its_own_contour_says(shared_data: Path) -> None:
    """The tumour was drawn on both grids: an independent word on where the channels belong."""
    case = shared_data / "finetune" / "sts_ct_mr_pet" / "STS_008"
    reference = read_image(case / "CT_mask.nii.gz")
    moved, covered = resample_onto(read_image(case / "PET_mask.nii.gz"), reference)
    ours, theirs = moved[0] > 0.5, reference.array[0] > 0
    assert covered > 0.95
    assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.9


def link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
