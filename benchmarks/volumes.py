"""The volumes that all sides work on, made once per run and saved as plain .npy files.

With the real scans at hand (`shared/data`, beside the checkout) a composite of one CT: the 3 mm
scan of a trunk brought to 1.5 mm and tiled by reflection, plus the fine structure of a 1 mm series,
without which it would compress far too well. Otherwise phantoms. The folder's `source.txt` says
which.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_tools.phantom import PhantomConfig, render_case
from stunet.io.volume import read_image, read_label
from stunet.transforms.resample import resample_image, target_shape
from stunet.transforms.resample_label import resample_label
from stunet.types import Size3, Spacing

ROOT = Path(__file__).resolve().parents[1]
SCANS = ROOT.parent / "shared" / "data" / "train_ct" / "totalseg"
SHAPE: Size3 = (300, 300, 300)
FINE_MM: Spacing = (1.5, 1.5, 1.5)
COARSE_MM: Spacing = (3.0, 3.0, 3.0)
AIR_HU = -500  # what lies above is the patient
# Compressed with zstd 3 and bit shuffle, real 1.5 mm scans take 1.24 bytes per voxel inside the
# patient. So does the composite with twice the fine structure of the thicker slices at hand.
STRUCTURE_GAIN = 2.0


def write_volumes(folder: Path, cases: int) -> str:
    """Write `image_I.npy` (int16 HU), `label_I.npy` (uint8) for each case; say what they are."""
    folder.mkdir(parents=True)
    real = SCANS.is_dir()
    for case in range(cases):
        image, label = _composite(case) if real else _phantom(case)
        np.save(folder / f"image_{case}.npy", image)
        np.save(folder / f"label_{case}.npy", label)
    return "composite of a real CT" if real else "phantom"


def two_labels(label_zyx: np.ndarray) -> np.ndarray:
    """Background and one label for everything else."""
    return (label_zyx > 0).astype(np.uint8)


def many_labels(shape: Size3, seed: int = 0) -> np.ndarray:
    """A label map of one phantom with all 104 structures, uint8."""
    spacing = 640 / shape[0]  # mm; the phantom fills the field of view
    config = PhantomConfig(1, 104, shape, (spacing, spacing, spacing), seed)
    return render_case(config, 0)[1]


def _phantom(case: int) -> tuple[np.ndarray, np.ndarray]:
    config = PhantomConfig(cases=case + 1, classes=104, shape_zyx=SHAPE, spacing_mm=(2.2, 2.2, 2.2))
    return render_case(config, case)


def _composite(case: int) -> tuple[np.ndarray, np.ndarray]:
    scan = read_image(SCANS / "example_ct.nii.gz")
    label = read_label(SCANS / "example_ct_seg.nii.gz", like=scan).array[0]
    shape = target_shape(scan.shape_zyx, scan.spacing_mm, FINE_MM)
    image = resample_image(scan.array.astype(np.float32), scan.spacing_mm, FINE_MM, shape)[0]
    image = _tiled(image, 37 * case)
    image += np.where(image > AIR_HU, _tiled(_fine_structure(), 11 * case), 0)
    label = _tiled(resample_label(label, shape), 37 * case)
    return np.rint(image).clip(-1024, 3071).astype(np.int16), label.astype(np.uint8)


def _fine_structure() -> np.ndarray:
    """What a 1.5 mm scan shows and a 3 mm scan does not, float32 HU, from inside a patient."""
    series = read_image(SCANS / "example_ct_dicom")
    image = series.array.astype(np.float32)
    fine_shape = target_shape(series.shape_zyx, series.spacing_mm, FINE_MM)
    coarse_shape = target_shape(series.shape_zyx, series.spacing_mm, COARSE_MM)
    fine = resample_image(image, series.spacing_mm, FINE_MM, fine_shape)
    coarse = resample_image(fine, FINE_MM, COARSE_MM, coarse_shape)
    structure = fine - resample_image(coarse, COARSE_MM, FINE_MM, fine_shape)
    middle = tuple(slice(side // 4, side - side // 4) for side in fine_shape[1:])
    return STRUCTURE_GAIN * structure[0][:, *middle]


def _tiled(array_zyx: np.ndarray, shift: int) -> np.ndarray:
    """Continue an array by reflection to `SHAPE`, starting `shift` voxels later on each axis."""
    for axis, side in enumerate(SHAPE):
        length = array_zyx.shape[axis]
        index = (np.arange(side) + shift) % (2 * length)
        array_zyx = array_zyx.take(np.minimum(index, 2 * length - 1 - index), axis)
    return array_zyx
