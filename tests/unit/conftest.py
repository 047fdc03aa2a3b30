"""Small stores for the tests of what writes, reads and verifies them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from stunet.io.manifest import DatasetInfo
from stunet.io.store_writer import StoreWriter
from stunet.types import CaseArrays, Channel, ChannelStatistics


def dataset_info(channels: int = 1, codec: str = "local") -> DatasetInfo:
    return DatasetInfo(
        name="small",
        channels=tuple(
            Channel(f"CH{c}", "ct", (-1000.0, 900.0), 3.5, 20.0) for c in range(channels)
        ),
        spacing_mm=(3.0, 1.5, 1.25),
        patch_size=(32, 32, 32),
        strides=((1, 1, 1), (2, 2, 2)),
        labels={"background": 0, "liver": 1, "spleen": 2, "dot": 7},
        ignore_label=9,
        licence="MIT",
        fingerprint={"median_shape": [70, 40, 50]},
        versions={"stunet": "0.1.0"},
        codec=codec,
    )


def case_arrays(
    case_id: str,
    shape: tuple[int, int, int] = (70, 40, 50),
    channels: int = 1,
    seed: int = 0,
) -> CaseArrays:
    """Noise with an empty corner; a liver, a spleen, one voxel of `dot` and an ignored slice."""
    image = np.random.default_rng(seed).integers(-1024, 3000, (channels, *shape), np.int16)
    image[:, :32, :32, :32] = 0
    label = np.zeros(shape, np.uint8)
    label[3:30, 5:25, 8:40] = 1
    label[15:23, 30:38, 5:13] = 2
    label[-1] = 9
    label[1, 2, 3] = 7
    affine = np.array([[1.25, 0, 0, -10], [0, 1.5, 0, 20.5], [0, 0, 3, 7], [0, 0, 0, 1]])
    return CaseArrays(
        case_id=case_id,
        image_czyx=image,
        label_zyx=label,
        affine=affine,
        scale=(0.1,) * channels,
        offset=(-3.0,) * channels,
        statistics=(ChannelStatistics(1.0, 2.0, -3.0, 4.0),) * channels,
        split="train",
        source_sha256={"ct.nii.gz": f"{seed:064x}"},
        licence="MIT",
    )


@dataclass(frozen=True)
class SmallStore:
    root: Path
    info: DatasetInfo
    cases: tuple[CaseArrays, ...]


@pytest.fixture
def make_info() -> Callable[..., DatasetInfo]:
    return dataset_info


@pytest.fixture
def make_case() -> Callable[..., CaseArrays]:
    return case_arrays


@pytest.fixture(scope="session")
def small_store_template(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    root, info = tmp_path_factory.mktemp("template"), dataset_info()
    cases = (case_arrays("a", seed=1), case_arrays("b", (33, 64, 65), seed=2))
    writer = StoreWriter(root, info)
    writer.finish([writer.write_case(case) for case in cases])
    return SmallStore(root, info, cases)


@pytest.fixture
def small_store(small_store_template: SmallStore, tmp_path: Path) -> SmallStore:
    """Two finished cases, `a` and `b`; a copy that the test may damage."""
    root = shutil.copytree(small_store_template.root, tmp_path / "store")
    return replace(small_store_template, root=root)
