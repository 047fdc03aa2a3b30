"""Preparation of a scan that does not fit in memory: peak memory and CPU time of the command.

    python -m benchmarks.preparation [--json FILE]

Makes one CT-like scan of 1024 x 1024 x 2000 voxels with 105 labels (some 3 GB compressed, a few
minutes), prepares it at 1.5 mm and on its own grid, and measures the whole process. Needs 20 GB of
disk, no peer.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.rows import ROOT, Row, Session, main, within
from stunet.types import Size3, Spacing

SHAPE: Size3 = (2000, 1024, 1024)
SPACING_MM: Spacing = (0.8, 0.7, 0.7)
LABELS = 105  # background included
LIMIT_MB = 4096.0
CELL = (96, 128, 128)  # voxels of the lattice, an ellipsoid in each


def measure(session: Session) -> Iterator[Row]:
    """Prepare the scan at two spacings; one row for the peak of each, its CPU time in the note."""
    raw = session.folder / "raw"
    write_scan(raw, SHAPE)
    for spacing in ((1.5, 1.5, 1.5), SPACING_MM):
        out = session.folder / "x".join(map(str, spacing))
        peak_mb, cpu_s = prepare(raw, out, spacing)
        store = json.loads((out / "manifest.jsonl").read_text())
        shape = " x ".join(map(str, store["shape_zyx"]))
        yield within(
            f"preparation of {' x '.join(map(str, SHAPE))} voxels, {LABELS} labels, to {shape}",
            peak_mb,
            LIMIT_MB,
            "MB peak",
            f"{cpu_s:.0f} s of CPU time",
        )


def prepare(raw: Path, out: Path, spacing_mm: Spacing) -> tuple[float, float]:
    """Run `stunet data prepare`; peak resident memory in MB and CPU time in s of the process."""
    spacing = f"plan.spacing_mm=[{','.join(map(str, spacing_mm))}]"
    command = [sys.executable, "-m", "launch.cli", "data", "prepare", str(raw), str(out)]
    process = subprocess.Popen([*command, "holdout=0", spacing], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"preparation ended with exit code {process.returncode}")
    return _peak_mb(usage), usage.ru_utime + usage.ru_stime


def _peak_mb(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss * 1024 / 1e6


def write_scan(root: Path, shape: Size3) -> None:
    """A folder of pairs with one case; written plane by plane, in little memory."""
    planes: dict[str, tuple[np.dtype, Iterator[np.ndarray]]] = {
        "images": (np.dtype("<i2"), _image_planes(shape)),
        "labels": (np.dtype("u1"), (_label_plane(z, shape) for z in range(shape[0]))),
    }
    for kind, (dtype, values) in planes.items():
        (root / kind).mkdir(parents=True)
        with gzip.open(root / kind / "scan.nii.gz", "wb", compresslevel=1) as file:
            file.write(_header(shape, dtype))
            for plane in values:
                file.write(plane.astype(dtype).tobytes())
    names = {"background": 0, **{f"structure_{value}": value for value in range(1, LABELS)}}
    (root / "labels.json").write_text(json.dumps(names))


def _header(shape: Size3, dtype: np.dtype) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_shape(shape[::-1])
    header.set_data_dtype(dtype)
    header.set_sform(np.diag([*SPACING_MM[::-1], 1.0]), code="scanner")
    header.set_xyzt_units("mm")
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header.binaryblock + bytes(4)


def _label_plane(z: int, shape: Size3) -> np.ndarray:
    """Plane z of a lattice of ellipsoids, every cell with the next label."""
    y, x = np.ogrid[: shape[1], : shape[2]]
    number = z // CELL[0] * 59 + y // CELL[1] * 8 + x // CELL[2]
    away_z, away_y, away_x = (
        (np.asarray(place) % side / side * 2 - 1) ** 2
        for place, side in zip((z, y, x), CELL, strict=True)
    )
    return np.where(away_z + away_y + away_x < 0.8, 1 + number % (LABELS - 1), 0)


def _image_planes(shape: Size3) -> Iterator[np.ndarray]:
    """Tissue with noise in a cylinder of air, each structure of its own density, in HU."""
    noise = np.random.default_rng(0).normal(0.0, 12.0, shape[1:])
    y, x = np.ogrid[: shape[1], : shape[2]]
    centre = (shape[1] / 2, shape[2] / 2)
    body = ((y - centre[0]) / centre[0]) ** 2 + ((x - centre[1]) / centre[1]) ** 2 < 0.8
    for z in range(shape[0]):
        tissue = 20.0 + _label_plane(z, shape) + np.roll(noise, 37 * z, axis=(0, 1))
        yield np.rint(np.where(body, tissue, -1000.0 + noise / 4))


if __name__ == "__main__":
    main(measure)
