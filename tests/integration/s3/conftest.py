"""A real HTTP S3 server whose answers can be late, wrong, cut short or missing; stores on it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import numpy as np
import pytest
from scipy import ndimage

from data_tools.copy_store import copy_store
from stunet.io.manifest import DatasetInfo
from stunet.io.remote import StoreOptions
from stunet.io.store_writer import StoreWriter
from stunet.types import CaseArrays, Channel, ChannelStatistics, Size3

SERVER = Path(__file__).resolve().parents[3] / "benchmarks" / "loopback_s3.py"
BUCKET = "data"
SECRET = "wJalrXUtnFEMIsecret"
SMALL: Size3 = (90, 70, 80)
INFO = DatasetInfo(
    name="noise",
    channels=(Channel("CT", "ct", (-1000.0, 900.0), 3.5, 200.0),),
    spacing_mm=(1.5, 1.5, 1.5),
    patch_size=(32, 32, 32),
    strides=((2, 2, 2),),
    labels={"background": 0, "a": 1, "b": 2},
    ignore_label=None,
    licence="CC0",
    fingerprint={},
    versions={},
)


@dataclass(frozen=True)
class S3:
    """The server, `behave` changes it and zeroes its counts; and another client for it."""

    url: str
    client: Any
    secret: str = SECRET

    def behave(self, **behaviour: Any) -> None:
        body = json.dumps(behaviour).encode()
        urlopen(Request(f"{self.url}/-/behave", body, method="POST"), timeout=10).close()

    def counts(self) -> dict[str, int]:
        with urlopen(f"{self.url}/-/counts", timeout=10) as answer:
            return dict(json.load(answer))

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture(scope="package")
def server() -> Iterator[S3]:
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", url)
            patch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
            patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            client = boto3.client("s3")
            client.create_bucket(Bucket=BUCKET)
            yield S3(url, client)
            client.close()


@pytest.fixture
def s3(server: S3) -> Iterator[S3]:
    server.behave()
    yield server
    server.behave()


def arrays(case_id: str, shape: Size3, seed: int) -> CaseArrays:
    """A noisy body in air, about as compressible as a CT, with two structures."""
    rng = np.random.default_rng(seed)
    sides = (np.linspace(-1, 1, side, dtype=np.float32) for side in shape)
    z, y, x = np.meshgrid(*sides, indexing="ij", sparse=True)
    tile = ndimage.uniform_filter(rng.normal(0, 230, (75, 75, 75)).astype(np.float32), 2)
    noise = np.tile(tile, [-(-n // 75) for n in shape])[tuple(map(slice, shape))]
    noise *= 0.55 + 0.45 * np.sin(9 * z) * np.cos(7 * y) * np.sin(8 * x)  # as tissues differ
    image = np.where(y**2 + x**2 < 1, noise, -1024).astype(np.int16)
    label = np.zeros(shape, np.uint8)
    label[(z**2 + y**2 + (x - 0.2) ** 2) < 0.2] = 1
    label[((z - 0.5) ** 2 + (y + 0.3) ** 2 + (x + 0.3) ** 2) < 0.03] = 2
    return CaseArrays(
        case_id=case_id,
        image_czyx=image[None],
        label_zyx=label,
        affine=np.diag([1.5, 1.5, 1.5, 1.0]),
        scale=(1.0,),
        offset=(0.0,),
        statistics=(ChannelStatistics(0.0, 1.0, -1024.0, 300.0),),
        split="train",
        source_sha256={},
    )


def write_store(root: Path, shapes: dict[str, Size3], seed: int = 0, codec: str = "local") -> Path:
    writer = StoreWriter(root, replace(INFO, codec=codec))
    writer.finish(
        [
            writer.write_case(arrays(name, shape, seed + n))
            for n, (name, shape) in enumerate(shapes.items())
        ]
    )
    return root


@pytest.fixture(scope="session")
def make_store() -> Callable[..., Path]:
    return write_store


@pytest.fixture(scope="package")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("local"), dict.fromkeys("abc", SMALL))


@pytest.fixture(scope="package")
def small(server: S3, local: Path) -> str:
    server.behave()
    copy_store(local, "s3://data/small", StoreOptions())
    return "s3://data/small"


@pytest.fixture
def options(tmp_path: Path) -> StoreOptions:
    return StoreOptions(cache_dir=str(tmp_path / "cache"), timeout_s=20)
