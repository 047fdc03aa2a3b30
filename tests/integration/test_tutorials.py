"""The commands of the tutorials run as written, one after the other, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"


def commands(tutorial: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", tutorial.read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_your_dataset(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands(TUTORIALS / "your-dataset.md"):
        run = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"

    scan = nibabel.load(tmp_path / "raw" / "images" / "phantom_001.nii.gz")
    labels = nibabel.load(tmp_path / "labels" / "phantom_001.nii.gz")
    assert labels.shape == scan.shape
    assert np.array_equal(labels.affine, scan.affine)
    summary = json.loads((tmp_path / "scores" / "raw" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 5
    assert set(summary["mean"]) == {"1", "2", "3", "4"}
    for picture in ("sheet.png", "run/plots/loss.png", "run/plots/dice.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
