"""Reading patches and resampling labels: `python -m benchmarks.data --json FILE`.

On phantoms, so that anyone can run it; voxel values of real CT compress a little less.
"""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage

from benchmarks.rows import Row, compare, main
from data_tools.ingest import ingest
from data_tools.phantom import PhantomConfig, render_case, write_phantom
from data_tools.plan import PlanConfig
from data_tools.prepare import PrepareConfig, prepare
from stunet.data.patches import PatchSource
from stunet.data.sampler import SamplerConfig
from stunet.io.store import Store, open_store
from stunet.transforms.augment import AugmentConfig
from stunet.transforms.resample_label import resample_label
from stunet.types import Size3

PATCH: Size3 = (128, 128, 128)


def measure() -> list[Row]:
    """All rows of this file."""
    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder))
        return [_patch_read(store), _augmented(store), *map(_label_resampling, (2, 20, 104))]


def _store(folder: Path) -> Store:
    phantom = PhantomConfig(cases=2, classes=20, shape_zyx=(256, 256, 256), spacing_mm=(2, 2, 2))
    raw = ingest(write_phantom(folder / "raw", phantom))
    config = PrepareConfig(plan=PlanConfig(patch_size=PATCH), holdout=0)
    return open_store(prepare(raw, folder / "store", config))


def _patch_read(store: Store) -> Row:
    groups = [zarr.open_group(str(store.root / row.path), mode="r") for row in store.rows]
    starts = np.random.default_rng(0).integers(0, 128, (1000, 3)).tolist()
    mine, theirs = count(), count()

    def ours() -> None:
        turn = next(mine)
        store.read_image(turn % 2, tuple(starts[turn]), PATCH)
        store.read_label(turn % 2, tuple(starts[turn]), PATCH)

    def peer() -> None:
        turn = next(theirs)
        z, y, x = starts[turn]
        box = slice(z, z + 128), slice(y, y + 128), slice(x, x + 128)
        np.asarray(groups[turn % 2]["image"][(slice(None), *box)])
        np.asarray(groups[turn % 2]["label"][box])

    return compare("random 128^3 patch, image and label", ours, peer, "zarr-python", 40)


def _augmented(store: Store) -> Row:
    """What default augmentation adds to a plain patch, on average over patches."""
    arguments = (store, [0, 1], PATCH, 0, SamplerConfig())
    plain = PatchSource(*arguments, AugmentConfig(enabled=False))
    augmented = PatchSource(*arguments, AugmentConfig())
    return compare(
        "20 patches of 128^3 with default augmentation",
        lambda: [augmented[sample] for sample in range(20)],
        lambda: [plain[sample] for sample in range(20)],
        "ours without augmentation",
        repeats=3,
    )


def _label_resampling(classes: int) -> Row:
    config = PhantomConfig(
        cases=1, classes=classes, shape_zyx=(160, 160, 160), spacing_mm=(4, 4, 4)
    )
    _, label = render_case(config, 0)
    shape: Size3 = (200, 200, 200)
    return compare(
        f"label map 160^3 to 200^3, {classes} labels",
        lambda: resample_label(label, shape),
        lambda: _one_pass_per_label(label, shape),
        "one linear zoom per label",
        repeats=1,
    )


def _one_pass_per_label(label_zyx: np.ndarray, shape: Size3) -> np.ndarray:
    """What per-label tools do: a linear zoom of each mask, the largest wins."""
    zoom = [new / old for new, old in zip(shape, label_zyx.shape, strict=True)]
    best = np.zeros(shape, np.float32)
    result = np.zeros(shape, label_zyx.dtype)
    for value in np.unique(label_zyx):
        mask = (label_zyx == value).astype(np.float32)
        share = ndimage.zoom(mask, zoom, order=1, mode="nearest", grid_mode=True)
        better = share > best
        result[better], best[better] = value, share[better]
    return result


if __name__ == "__main__":
    main(measure)
