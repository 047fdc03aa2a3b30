"""Fixtures that several test folders share."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real licensed scans, laid beside the checkout and never committed."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real scans not at hand: {folder} is absent")
    return folder


@pytest.fixture
def mount_disk() -> Iterator[Callable[..., Path]]:
    """(folder, *options) -> folder, now a file system in memory; again: mounted with others."""
    mounted: list[Path] = []

    def mount(folder: Path, *options: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if folder in mounted:
            remount = ["mount", "-o", ",".join(("remount", *options)), str(folder)]
            subprocess.run(remount, check=True)
            return folder
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system takes root and a machine that allows it")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
