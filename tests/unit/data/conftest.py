from pathlib import Path

import numpy as np
import pytest

from stunet.io.manifest import DatasetInfo
from stunet.io.store import Store, open_store
from stunet.io.store_writer import StoreWriter
from stunet.transforms.normalize import statistics
from stunet.types import CaseArrays, Channel, Size3

SHAPES: dict[str, Size3] = {"tall": (52, 40, 44), "wide": (30, 64, 41), "thin": (20, 37, 70)}
SCALE, OFFSET = (1.0, 0.05), (0.0, 3.0)


def make_case(case_id: str, shape: Size3) -> CaseArrays:
    rng = np.random.default_rng(len(case_id) + sum(shape))
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    wave = 400 * np.sin(z / 5.0) + 300 * np.cos(y / 7.0) * np.sin(x / 4.0)
    image = np.stack([wave, 900 - wave]) + rng.normal(0, 40, (2, *shape))
    label = np.zeros(shape, np.uint8)
    for value in (1, 2, 3, 7):
        centre = [rng.integers(4, side - 4) for side in shape]
        radius = sum((g - c) ** 2 for g, c in zip((z, y, x), centre, strict=True))
        label[radius < (2 + 2 * value) ** 2] = value
    label[:2] = 9  # ignored
    stored = image.astype(np.int16)
    physical = stored * np.float32(SCALE).reshape(2, 1, 1, 1)
    physical = physical + np.float32(OFFSET).reshape(2, 1, 1, 1)
    return CaseArrays(
        case_id=case_id,
        image_czyx=stored,
        label_zyx=label,
        affine=np.diag([1.5, 1.5, 1.5, 1.0]),
        scale=SCALE,
        offset=OFFSET,
        statistics=statistics(physical),
        split="train",
        source_sha256={},
    )


INFO = DatasetInfo(
    name="waves",
    channels=(
        Channel("CT", "ct", clip=(-500.0, 500.0), mean=20.0, std=300.0),
        Channel("MR", "zscore"),
    ),
    spacing_mm=(1.5, 1.5, 1.5),
    patch_size=(32, 32, 32),
    strides=((2, 2, 2),),
    labels={"background": 0, "a": 1, "b": 2, "c": 3, "d": 7},
    ignore_label=9,
    licence="CC0",
    fingerprint={},
    versions={},
)


@pytest.fixture(scope="session")
def cases() -> dict[str, CaseArrays]:
    return {case_id: make_case(case_id, shape) for case_id, shape in SHAPES.items()}


@pytest.fixture(scope="session")
def store_root(cases: dict[str, CaseArrays], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    writer = StoreWriter(root, INFO)
    writer.finish([writer.write_case(case) for case in cases.values()])
    return root


@pytest.fixture(scope="session")
def store(store_root: Path) -> Store:
    return open_store(store_root)


@pytest.fixture(scope="session")
def many_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of fifty tiny cases."""
    root = tmp_path_factory.mktemp("many")
    writer = StoreWriter(root, INFO)
    cases = (make_case(f"c{number:02}", (12, 12, 12)) for number in range(50))
    writer.finish([writer.write_case(case) for case in cases])
    return root
