"""Scans that are recognised again, and scans that only look alike: drawn from noise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from data_tools.audit_duplicates import SAME, candidates, duplicate_findings, similarity
from data_tools.audit_finding import Case, Severity
from data_tools.audit_thumbnail import Thumbnail, thumbnails
from stunet.io.manifest import DatasetInfo
from stunet.io.store import open_store
from stunet.io.store_writer import StoreWriter
from stunet.types import CaseArrays

SHAPE = (40, 64, 72)


def scan(seed: int) -> np.ndarray:
    """A body of nearly the same build as all others, with organs of one's own, in HU."""
    random = np.random.default_rng(seed)
    z, y, x = np.ogrid[-1:1:40j, -1:1:64j, -1:1:72j]
    depth, width = random.uniform(0.9, 1.2, 2)
    body = (0.5 * z**2 + depth * y**2 + width * x**2) < 0.8
    texture = ndimage.gaussian_filter(random.normal(size=SHAPE), 2.5)
    return np.where(body, 60 + 60 * texture / texture.std(), -1000)


def resampled(hu: np.ndarray, factor: float) -> np.ndarray:
    return np.asarray(ndimage.zoom(hu, factor, order=1, grid_mode=True, mode="nearest"))


def noisy(hu: np.ndarray) -> np.ndarray:
    return hu + np.random.default_rng(99).normal(0, 25, hu.shape)


@pytest.fixture
def thumbs(tmp_path: Path, make_info: Callable[..., DatasetInfo], make_case: Callable):
    """Thumbnails of images in HU at a spacing in mm."""

    def make(hu: np.ndarray, spacing: float = 3.0) -> tuple[Thumbnail, ...]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        info = replace(make_info(), spacing_mm=(spacing,) * 3, ignore_label=None)
        case: CaseArrays = replace(
            make_case("a"),
            image_czyx=np.round(hu[None]).astype(np.int16),
            label_zyx=np.zeros(hu.shape, np.uint8),
            scale=(1.0,),
            offset=(0.0,),
        )
        writer = StoreWriter(root, info)
        writer.finish([writer.write_case(case)])
        return thumbnails(open_store(root), 0)

    return make


CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "noise": (noisy, 3.0),
    "window": (lambda hu: np.clip(hu, -160, 240), 3.0),
    "cropped": (lambda hu: hu[4:-3, 5:-2, 3:-6], 3.0),
    "half the slices": (lambda hu: hu[18:], 3.0),
    "resampled": (lambda hu: resampled(hu, 0.75), 4.0),
    "all": (lambda hu: np.clip(noisy(resampled(hu, 0.75))[2:-2, 3:, :-4], -200, 300), 4.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_the_same_scan(thumbs, change: str) -> None:
    alter, spacing = CHANGES[change]
    assert similarity(thumbs(scan(0)), thumbs(alter(scan(0)), spacing)) > SAME + 0.05


def test_another_patient_of_the_same_build_is_not(thumbs) -> None:
    one = thumbs(scan(0))
    assert max(similarity(one, thumbs(scan(seed))) for seed in range(1, 5)) < SAME - 0.15


def test_scans_of_another_scale_are_not_compared(thumbs) -> None:
    assert similarity(thumbs(scan(0)), thumbs(scan(0), 30.0)) == -1


def test_candidates_hold_the_copy_among_many(thumbs) -> None:
    many = [thumbs(scan(seed)) for seed in range(12)]
    copy = thumbs(CHANGES["all"][0](scan(7)), 4.0)
    pairs = candidates([*many, copy])
    assert (7, 12) in pairs
    assert len(pairs) <= 13 * 4


@pytest.mark.parametrize(
    ("splits", "severity"),
    [
        (("train", "test"), Severity.SEVERE),
        (("val", "train"), Severity.SEVERE),
        (("train", "train"), Severity.WARNING),
        (("val", "test"), Severity.WARNING),
    ],
)
def test_leakage_is_severe(thumbs, splits: tuple[str, str], severity: Severity) -> None:
    cases = [Case(0, 0, "a", "A", splits[0]), Case(1, 0, "b", "B", splits[1])]
    pictures = [thumbs(scan(0)), thumbs(noisy(scan(0)))]
    (finding,) = duplicate_findings(cases, pictures)
    assert finding.severity is severity
    assert finding.other == cases[1]
    assert "same scan as b of B" in finding.message
