"""Thumbnails by which a scan is recognised again: coarse, oriented, without intensities.

A thumbnail holds what resampling, windowing, noise and a change of units leave alone: details of a
few coarse voxels in the soft-tissue window. Comparing is `audit_duplicates`' part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from stunet.io.store import Store
from stunet.planes import choose_window
from stunet.types import Size3

FEWEST = 40  # voxels of a thumbnail in the axial plane (geometric mean); at most twice as many
SLAB = 64  # slices of a store held in memory
FINE, COARSE = 0.7, 1.5  # standard deviations in voxels between which details are kept
CANVAS = 128  # voxels that an axial slice is padded or cut to before its spectrum is taken
WAVES = 14  # highest spatial frequency of a spectrum, per canvas


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """One scan at one coarse scale.

    Attributes:
        level: Its voxels have sides of 2 ** level mm.
        detail_zyx: float32, details of the brightness; zero mean and RMS 1.
        spectra: (z, n) float32, size of each slice's spatial frequencies, wherever things lie.
    """

    level: int
    detail_zyx: np.ndarray
    spectra: np.ndarray


def thumbnails(store: Store, case: int) -> tuple[Thumbnail, ...]:
    """Two thumbnails of a case, one twice as coarse: scans of other extent share a scale."""
    row, spacing_mm = store.rows[case], store.info.spacing_mm
    extent_mm = [n * side for n, side in zip(row.shape_zyx, spacing_mm, strict=True)]
    level = math.floor(math.log2(math.sqrt(extent_mm[1] * extent_mm[2]) / FEWEST))
    steps = [max(1, int(2**level / side)) for side in spacing_mm]
    small = _block_means(store, case, steps) * row.scale[0] + row.offset[0]
    low, high, _ = choose_window(small)
    small = (np.clip(small, low, high) - low) / (high - low)
    sides_mm = [e / n for e, n in zip(extent_mm, small.shape, strict=True)]
    return tuple(
        _thumbnail(at, _resized(small, [side / 2**at for side in sides_mm]))
        for at in (level, level + 1)
    )


def _block_means(store: Store, case: int, steps: list[int]) -> np.ndarray:
    """Means over blocks of the first channel, reading some slices at a time."""
    D, H, W = store.rows[case].shape_zyx
    dz, dy, dx = steps
    height = max(1, SLAB // dz) * dz
    slabs = []
    for z in range(0, D, height):
        shape: Size3 = (min(height, D - z), H, W)
        slab = store.read_image(case, (z, 0, 0), shape)[0].astype(np.float32)
        for axis, step in enumerate((dz, dy, dx)):
            starts = np.arange(0, slab.shape[axis], step)
            sizes = np.diff([*starts, slab.shape[axis]])
            sums = np.add.reduceat(slab, starts, axis=axis)
            slab = sums / np.expand_dims(sizes, [a for a in range(3) if a != axis])
        slabs.append(slab)
    return np.concatenate(slabs)


def _resized(volume: np.ndarray, factors: list[float]) -> np.ndarray:
    blur = [max(0.0, 0.4 * (1 / factor - 1)) for factor in factors]
    factors = [max(factor, 1 / n) for factor, n in zip(factors, volume.shape, strict=True)]
    smooth = ndimage.gaussian_filter(volume, blur)
    return np.asarray(ndimage.zoom(smooth, factors, order=1, grid_mode=True, mode="nearest"))


def _thumbnail(level: int, volume: np.ndarray) -> Thumbnail:
    detail = ndimage.gaussian_filter(volume, FINE) - ndimage.gaussian_filter(volume, COARSE)
    detail -= detail.mean()
    detail /= max(float(detail.std()), 1e-6)
    canvas = np.zeros((len(detail), CANVAS, CANVAS), np.float32)
    height, width = (min(n, CANVAS) for n in detail.shape[1:])
    canvas[:, :height, :width] = detail[:, :height, :width]
    spectrum = np.abs(np.fft.rfft2(canvas))[:, :, : WAVES + 1]
    near = np.concatenate([spectrum[:, : WAVES + 1], spectrum[:, -WAVES:]], axis=1)
    return Thumbnail(level, detail, np.sqrt(near).reshape(len(detail), -1).astype(np.float32))
