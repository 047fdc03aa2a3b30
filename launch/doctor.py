"""The verb `doctor`: what this installation and machine offer, without importing torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from stunet import __version__

PACKAGES = ("torch", "deepspeed", "zarr", "numcodecs", "webdataset", "omegaconf", "fsspec", "wandb")


def report() -> str:
    """Return one line per fact: software, cores, memory, disk, GPUs."""
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    rows = [
        ("stunet", __version__),
        ("python", platform.python_version()),
        *((name, _version(name)) for name in PACKAGES),
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"),
        ("disk here", f"{disk.free / 2**30:.1f} of {disk.total / 2**30:.1f} GiB free"),
        *(("gpu", line) for line in _gpus()),
    ]
    return "\n".join(f"{name:<11} {value}" for name, value in rows)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed; run 'pip install stunet' again"


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return ["none seen (nvidia-smi is absent)"]
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    if answer.returncode != 0:
        return [f"nvidia-smi failed: {(answer.stderr or answer.stdout).strip().splitlines()[0]}"]
    return answer.stdout.strip().splitlines()
