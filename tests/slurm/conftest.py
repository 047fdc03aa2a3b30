"""One cluster for all tests of this folder, and a small prepared data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing

TINY = """\
extends: pretrain/quickstart_phantom
global_batch: 2
parallel: {micro_batch: 1}
optim: {total_steps: STEPS, warmup_steps: 2}
loop: {log_every: 1, checkpoint_every: 5, validate_every: 0}
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = missing()
    if reason:
        pytest.skip(f"no SLURM cluster: {reason}")
    started = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def data(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `raw` and `store`."""
    folder = tmp_path_factory.mktemp("data")
    small = ("cases=3", "classes=3", "shape_zyx=[40,48,64]")
    cluster.stunet("data", "phantom", folder / "raw", *small)
    plan = ("workers=0", "holdout=1", "plan.patch_size=[32,32,32]")
    cluster.stunet("data", "prepare", folder / "raw", folder / "store", *plan)
    return folder


def recipe(folder: Path, steps: int) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(TINY.replace("STEPS", str(steps)))
    return file
