"""The commands of the tutorials run as written, one after the other, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests import published
from tests.integration.hub.stand_in import Hub

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"


def commands(tutorial: str) -> list[str]:
    text = (TUTORIALS / tutorial).read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def follow(tutorial: str, folder: Path, **environment: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands(tutorial):
        run = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the first tutorial was followed; others go on there."""
    folder = tmp_path_factory.mktemp("tutorials")
    follow("your-dataset.md", folder)
    return folder


def test_your_dataset(first: Path) -> None:
    scan = nibabel.load(first / "raw" / "images" / "phantom_001.nii.gz")
    labels = nibabel.load(first / "labels" / "phantom_001.nii.gz")
    assert labels.shape == scan.shape
    assert np.array_equal(labels.affine, scan.affine)
    summary = json.loads((first / "scores" / "raw" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 5
    assert set(summary["mean"]) == {"1", "2", "3", "4"}
    for picture in ("sheet.png", "run/plots/loss.png", "run/plots/dice.png"):
        assert (first / picture).read_bytes().startswith(b"\x89PNG")


def test_fine_tune(first: Path) -> None:
    follow("fine-tune.md", first)
    info, bundle = (
        json.loads((first / place).read_text())
        for place in ("other-store/dataset.json", "bundle/config.json")
    )
    assert info["spacing_mm"] == bundle["preprocessing"]["spacing_mm"]
    assert not (first / "worth").exists()


def test_publish(first: Path, tmp_path: Path) -> None:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.05,))
        thread.start()
        follow(
            "publish.md",
            first,
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path),
            HF_HUB_DISABLE_XET="1",
            HF_TOKEN="hf_standin",
        )
        hub.shutdown()
        thread.join()
        assert hub.mistakes == []
    released = hub.repositories["ward/ct-phantom"]
    card = released.commits[released.branches["main"]]["README.md"].data.decode()
    for words in ("Knows phantoms only.", "name: raw transfer", "license: cc-by-4.0"):
        assert words in card
    name = "phantom_001.nii.gz"
    before = np.asarray(nibabel.load(first / "labels" / name).dataobj)
    assert np.array_equal(np.asarray(nibabel.load(first / "from-hub" / name).dataobj), before)
    assert (first / "ct-phantom.onnx").stat().st_size > 1_000_000


def test_from_nnunet(tmp_path: Path) -> None:
    raw = published.write_raw(tmp_path / "nnUNet_raw" / "Dataset007_Small")
    plans = published.v2_plans(
        published.architecture(residual=True),
        normalization_schemes=["CTNormalization"],
        use_mask_for_norm=[False],
    )
    published.write_v2(
        tmp_path / "nnUNet_results" / raw.name / "nnUNetTrainer__nnUNetPlans__3d_fullres",
        published.unet_weights(residual=True, in_channels=1),
        plans,
        published.v2_dataset(1),
    )
    follow("from-nnunet.md", tmp_path)
    scan = nibabel.load(raw / "imagesTr" / "case_001_0000.nii.gz")
    labels = nibabel.load(tmp_path / "labels" / "case_001.nii.gz")
    assert labels.shape == scan.shape and np.array_equal(labels.affine, scan.affine)
    assert "step_000002" in (tmp_path / "run" / "checkpoints" / "LATEST").read_text()
