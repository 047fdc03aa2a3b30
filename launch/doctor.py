"""The verb `doctor`: what this machine offers, without importing torch, and if a recipe can run."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from launch.gpus import list_gpus
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


def examine(recipe: str, values: Sequence[str], colour: bool) -> tuple[str, bool]:
    """Run preflight for a recipe.

    Args:
        recipe: Of a training.
        values: `key=value` for it and, as for `launch`, of the launch. With `nodes=` or `on=` the
            ranks are those of a cluster; else they run here.
        colour: For a terminal.

    Returns:
        The table, and whether nothing failed.
    """
    from launch.env import announced_port
    from launch.launch_config import ON, split_values
    from launch.preflight import plan_for, preflight, render
    from launch.stages import schema_of
    from stunet.config import load_config

    launch, rest = split_values(values)
    local = not any(value.partition("=")[0] in ("nodes", ON) for value in values)
    plan = replace(plan_for(launch, local), port=announced_port())
    checks = preflight(load_config(schema_of(recipe), recipe, rest), plan)
    return render(checks, colour), all(check.ok is not False for check in checks)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed; run 'pip install stunet' again"


def _gpus() -> list[str]:
    try:
        gpus = list_gpus()
    except OSError as error:
        return [str(error)]
    lines = [f"{g.name}, {g.memory_bytes / 2**30:.0f} GiB, driver {g.driver}" for g in gpus]
    return lines or ["none seen"]
