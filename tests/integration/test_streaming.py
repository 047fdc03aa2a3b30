"""Tars behind S3, and a run on a mixture of a store and tars from the command line to a bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import numpy as np
import pytest

from stunet.bundle import read_bundle
from stunet.errors import DataError
from stunet.io.remote import StoreOptions
from stunet.io.tar_set import open_tar_set

SERVER = Path(__file__).resolve().parents[2] / "benchmarks" / "loopback_s3.py"


def stunet(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "launch.cli", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small phantoms as `store` and as `tars` of two cases."""
    folder = tmp_path_factory.mktemp("data")
    stunet("data", "phantom", folder / "raw", "cases=4", "classes=4", "shape_zyx=[48,64,80]")
    stunet(
        *("data", "prepare", folder / "raw", folder / "store", "workers=0", "holdout=1"),
        "plan.patch_size=[32,32,32]",
    )
    stunet("data", "shard", folder / "store", folder / "tars", "cases=2")
    return folder


@pytest.fixture
def s3(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server's address; the tars lie in its bucket `data`."""
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="data")
        for file in (folders / "tars").iterdir():
            client.put_object(Bucket="data", Key=f"set/{file.name}", Body=file.read_bytes())
        yield url
        client.close()


def behave(server: str, **behaviour: Any) -> None:
    body = json.dumps(behaviour).encode()
    urlopen(Request(f"{server}/-/behave", body, method="POST"), timeout=10).close()


def gets(server: str) -> int:
    with urlopen(f"{server}/-/counts", timeout=10) as answer:
        return int(json.load(answer)["get"])


def test_volumes_arrive_whole_from_an_object_store_that_fails_now_and_then(
    s3: str, folders: Path
) -> None:
    here, there = open_tar_set(folders / "tars"), open_tar_set("s3://data/set", StoreOptions())
    assert there.rows == here.rows
    behave(s3)
    there.read_volume(0)
    assert gets(s3) == 1
    behave(s3, share=0.3, faults=["500", "drop", "cut", "short", "flip"], latency_ms=5)
    for case in [0, 1, 2, 3] * 3:
        ours, theirs = there.read_volume(case), here.read_volume(case)
        np.testing.assert_array_equal(ours.image_czyx, theirs.image_czyx)
        np.testing.assert_array_equal(ours.label_zyx, theirs.label_zyx)
    behave(s3, share=1.0, faults=["flip"])
    with pytest.raises(DataError, match=r"s3://data/set/000000.tar"):
        there.read_volume(0)


def test_a_mixture_of_store_and_tars_trains_validates_and_tells_both_in_its_bundle(
    folders: Path, tmp_path: Path
) -> None:
    mixture = (
        f"mixture=[{{path: '{folders}/store', weight: 1}}, {{path: '{folders}/tars', weight: 3}}]"
    )
    stunet(
        *("pretrain", "pretrain/quickstart_phantom", mixture, f"out={tmp_path}/run"),
        *("optim.total_steps=4", "optim.warmup_steps=1", "loop.log_every=1"),
        *("loop.validate_every=4", "loader.workers=1"),
        *("sampler.patches_per_volume=4", "sampler.volumes_at_once=4"),
    )
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert 0 <= rows[-1]["val_dice"] <= 1
    stunet("export", tmp_path / "run", tmp_path / "bundle")
    data = read_bundle(tmp_path / "bundle").provenance.data
    assert [(source.cases, source.sha256) for source in data] == [(3, data[0].sha256)] * 2
    assert read_bundle(tmp_path / "bundle").provenance.metrics
