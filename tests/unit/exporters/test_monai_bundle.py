"""MONAI itself, in an environment of its own, reads the folder and segments a scan with it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from stunet.bundle import Bundle, load_predictor
from stunet.errors import BundleError
from stunet.exporters.monai_bundle import write_monai_bundle
from stunet.types import Channel

PEERS = Path(__file__).resolve().parents[3] / ".venv-peers" / "bin" / "python"
RUN = """
import sys
from monai.bundle import ConfigParser, run
root, scan = sys.argv[1:]
parser = ConfigParser()
parser.read_meta(root + "/configs/metadata.json")
channels = parser.get("_meta_")["network_data_format"]["outputs"]["pred"]["channel_def"]
assert channels == {"0": "background", "1": "liver", "2": "spleen"}, channels
run(
    config_file=root + "/configs/inference.json",
    meta_file=root + "/configs/metadata.json",
    bundle_root=root,
    datalist=[scan],
)
"""


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_monai_bundle(bundle, tmp_path_factory.mktemp("monai") / "toy")


def test_the_recorded_network_is_the_network_with_axes_x_y_z(bundle: Bundle, folder: Path) -> None:
    image = torch.randn((1, 1, 32, 48, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), pytest.warns(DeprecationWarning):
        traced = torch.jit.load(str(folder / "models" / "model.ts"))
        logits = traced(image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        assert torch.equal(logits, load_predictor(bundle).model(image))


def test_the_description(folder: Path) -> None:
    config = json.loads((folder / "configs" / "inference.json").read_text())
    steps = {step["_target_"]: step for step in config["preprocessing"]["transforms"]}
    assert steps["Spacingd"]["pixdim"] == [1.25, 1.5, 3.0]
    assert config["inferer"]["roi_size"] == [64, 32, 32]
    scale = steps["ScaleIntensityRanged"]
    assert (scale["b_min"], scale["b_max"]) == ((-900 - 100) / 300, (1200 - 100) / 300)
    assert (folder / "docs" / "data_license.txt").read_text() == "Toy: CC BY 4.0\n"
    assert (folder / "docs" / "README.md").read_text().startswith("---\n")


def test_channels_that_monai_cannot_treat_apart_are_refused(
    make_bundle: Callable[..., Bundle], folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    two = make_bundle(tmp_path / "two", (Channel("CT", "zscore"), Channel("PET", "rescale")))
    with pytest.raises(BundleError, match="PET rescale"):
        write_monai_bundle(two, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(BundleError, match="already there"):
        write_monai_bundle(bundle, folder)


def test_monai_segments_a_scan(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    if not PEERS.exists():
        pytest.skip("MONAI is not at hand: run make .venv-peers")
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (22, 40, 36)), indexing="ij")
    body = 600 * np.sin(3 * x) * np.cos(2 * y) + 300 * np.sin(4 * z)
    affine = np.array([[0, -1.25, 0, 9], [1.5, 0, 0, -4], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    scan = tmp_path / "scan.nii.gz"
    array = np.ascontiguousarray(body.transpose(1, 2, 0)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, affine), scan)
    command = [PEERS, "-c", RUN, folder, scan]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    theirs = nibabel.load(folder / "eval" / "scan_seg.nii.gz")
    ours = load_predictor(bundle).predict_array(array, affine)
    assert np.array_equal(theirs.affine, affine)
    assert len(np.unique(ours)) > 1
    agreement = (np.asarray(theirs.dataobj) == ours).mean()
    assert agreement > 0.99, agreement
