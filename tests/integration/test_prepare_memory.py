"""Memory that preparation takes, and that a scan prepared in little memory is the same scan.

The full size, 1024 x 1024 x 2000 voxels, is measured by `benchmarks/preparation.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_tools.case_memory import measuring_bytes, writing_bytes
from data_tools.ingest import ingest
from stunet.io.store import open_store
from stunet.types import Size3

REPO = Path(__file__).resolve().parents[2]
SHAPE: Size3 = (500, 256, 256)
SPACING_MM = (0.8, 0.7, 0.7)
SMALL = 32  # how many times less than usual the limits of the frugal run are

RUN = """
import sys
from pathlib import Path

from data_tools import fingerprint, percentiles
from data_tools.ingest import ingest
from data_tools.plan import PlanConfig
from data_tools.prepare import PrepareConfig, prepare
from stunet.io import foreground, nifti, spill, zarr_case

def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

if __name__ == "__main__":
    raw, out, times_less = sys.argv[1:]
    for module, limit in (
        (spill, "IN_MEMORY_BYTES"), (spill, "SLAB_VOXELS"), (spill, "COPIED_VOXELS"),
        (nifti, "SLAB_BYTES"), (fingerprint, "SUMMED_VALUES"), (percentiles, "COUNTED_VALUES"),
        (foreground, "COUNTED_VOXELS"), (foreground, "SORTED_VOXELS"),
    ):
        setattr(module, limit, getattr(module, limit) // int(times_less))
    print(peak_bytes())
    plan = PlanConfig(spacing_mm=(1.6, 1.6, 1.6))
    prepare(ingest(raw), Path(out), PrepareConfig(plan=plan, holdout=0))
    print(peak_bytes())
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """One scan of 33 million voxels with 104 ellipsoids in a lattice."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    away = ((z % 60) / 30 - 1) ** 2 + ((y % 64) / 32 - 1) ** 2 + ((x % 64) / 32 - 1) ** 2
    label = np.where(away < 0.8, 1 + (z // 60 * 16 + y // 64 * 4 + x // 64) % 104, 0)
    label = label.astype(np.uint8)
    noise = np.random.default_rng(0).integers(-20, 20, SHAPE[1:], np.int16)
    image = noise[None] + 8 * label.astype(np.int16)
    affine = np.diag([*SPACING_MM[::-1], 1.0])
    for kind, array in (("images", image), ("labels", label)):
        (tmp_path / "raw" / kind).mkdir(parents=True)
        scan = nib.Nifti1Image(array.transpose(), affine)
        nib.save(scan, tmp_path / "raw" / kind / "scan.nii.gz")
    names = {"background": 0, **{f"structure_{value}": value for value in range(1, 105)}}
    (tmp_path / "raw" / "labels.json").write_text(json.dumps(names))
    return tmp_path / "raw"


def prepare_apart(raw: Path, out: Path, times_less: int) -> tuple[int, int]:
    """Memory before, and at most, of a process that prepares `raw`."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(raw), str(out), str(times_less)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    before, peak = map(int, run.stdout.split())
    return before, peak


@pytest.mark.slow
def test_little_memory_gives_the_same_store(raw: Path, tmp_path: Path) -> None:
    before, usual = prepare_apart(raw, tmp_path / "usual", 1)
    _, frugal = prepare_apart(raw, tmp_path / "frugal", SMALL)
    assert frugal - before < 0.5 * (usual - before)
    assert frugal - before < 2 * np.prod(SHAPE) * np.dtype(np.int16).itemsize

    files = [path for path in (tmp_path / "usual").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        same = tmp_path / "frugal" / path.relative_to(tmp_path / "usual")
        assert same.read_bytes() == path.read_bytes(), path.name

    (row,) = open_store(tmp_path / "usual").rows
    (case,) = ingest(raw).cases
    estimate = max(measuring_bytes(case), writing_bytes(SHAPE, row.shape_zyx, channels=1))
    assert usual < estimate < 3 * usual


def test_no_case_takes_more_than_4_gb() -> None:
    for side in (64, 300, 512, 640, 1024, 2000):
        for growth in (0.3, 1.0, 1.5):
            edge = round(growth * side)
            assert writing_bytes((side,) * 3, (edge,) * 3, channels=1) < 4e9
