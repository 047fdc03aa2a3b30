"""Synthetic CT scans with exact labels: `write_phantom` makes a folder of plain pairs to train on.

For first runs, tests and benchmarks without real data. Not for: judging a network; the anatomy is
schematic. The patient's parts stand in `phantom_anatomy`, `phantom_organs` and `phantom_skeleton`.

Each case is a pure function of (seed, case). The patient is scaled to the field of view: more
voxels show the anatomy finer, larger voxels make a larger patient. Files are RAS+: array axis x
grows to the patient's Right.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from data_tools.phantom_anatomy import STRUCTURES, TISSUES, view_for
from data_tools.phantom_organs import soft_organs
from data_tools.phantom_render import Canvas, draw_pose, scanned, swayed
from data_tools.phantom_skeleton import skeleton
from stunet.errors import ConfigError
from stunet.io.atomic import atomic_write_bytes, atomic_write_json
from stunet.types import Size3, Spacing


@dataclass(frozen=True)
class PhantomConfig:
    """What to make.

    Attributes:
        cases: Number of scans.
        classes: Number of labelled structures, 2 to 104: the first of `STRUCTURES`.
        shape_zyx: Voxels; must be fine enough for `classes`.
        spacing_mm: Voxel size, z y x.
        seed: From 0 to 2**64 - 1; another seed gives other patients.

    Raises:
        ConfigError: A value is out of range, or the shape is too coarse for the classes.
    """

    cases: int = 12
    classes: int = 8
    shape_zyx: Size3 = (64, 80, 96)
    spacing_mm: Spacing = (4.0, 4.0, 4.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cases < 1 or not 0 <= self.seed < 2**64:
            raise ConfigError(
                f"phantom: cases={self.cases}, seed={self.seed}: "
                "give at least 1 case and a seed from 0 to 2**64 - 1"
            )
        if not 2 <= self.classes <= len(STRUCTURES):
            raise ConfigError(
                f"phantom: classes={self.classes}: give a number from 2 to {len(STRUCTURES)}"
            )
        if min(self.shape_zyx) < 1 or not all(0 < step < math.inf for step in self.spacing_mm):
            raise ConfigError(
                f"phantom: shape_zyx={self.shape_zyx}, spacing_mm={self.spacing_mm}: "
                "every number must be positive"
            )
        smallest = smallest_shape(self.classes, self.spacing_mm)
        if any(have < need for have, need in zip(self.shape_zyx, smallest, strict=True)):
            raise ConfigError(
                f"phantom: shape_zyx={self.shape_zyx} is too small for {self.classes} classes at "
                f"{self.spacing_mm} mm: give at least {smallest}"
            )

    @property
    def labels(self) -> dict[str, int]:
        """Structure name to label value, background included."""
        names = ("background", *STRUCTURES[: self.classes])
        return {name: value for value, name in enumerate(names)}


def smallest_shape(classes: int, spacing_mm: Spacing) -> Size3:
    """The smallest `shape_zyx` in which every one of the structures can be seen."""
    view = view_for(classes)
    scale = max(spacing_mm) / view.voxel_mm  # mm per body mm
    counts = view.size_mm * scale / spacing_mm
    z, y, x = (math.ceil(count - 1e-9) for count in counts)  # 1e-9: rounding of the division
    return z, y, x


def write_phantom(out: Path, config: PhantomConfig) -> Path:
    """Write `images/phantom_NNN.nii.gz`, `labels/phantom_NNN.nii.gz` and `labels.json` under `out`.

    Args:
        out: The folder to make. Cases of the same name are replaced.
        config: What to make.

    Returns:
        `out`.

    Raises:
        ConfigError: `out` holds scans that this call would not replace.
    """
    names = [f"phantom_{case:03d}.nii.gz" for case in range(config.cases)]
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        strangers = {path.name for path in (out / folder).glob("[!.]*")} - set(names)
        if strangers:
            raise ConfigError(
                f"{out / folder} already holds {sorted(strangers)[0]}: choose an empty folder"
            )
    for case, name in enumerate(names):
        image, label = render_case(config, case)
        atomic_write_bytes(out / "images" / name, _nifti(image, config.spacing_mm))
        atomic_write_bytes(out / "labels" / name, _nifti(label, config.spacing_mm))
    atomic_write_json(out / "labels.json", config.labels)
    return out


def render_case(config: PhantomConfig, case: int) -> tuple[np.ndarray, np.ndarray]:
    """One scan and its labels.

    Args:
        config: What to make.
        case: Index of the patient, from 0 on.

    Returns:
        int16 HU (z, y, x) and uint8 label values (z, y, x).
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([config.seed, case], np.uint64)))
    pose = draw_pose(view_for(config.classes), config.shape_zyx, config.spacing_mm, rng)
    tissue_hu = {name: mean + sd * rng.standard_normal() for name, (mean, sd) in TISSUES.items()}
    canvas = Canvas(config.shape_zyx, config.spacing_mm, pose)
    canvas.paint_table(tissue_hu)
    for organ in (*soft_organs(fat_mm=rng.uniform(10, 18)), *skeleton()):
        canvas.paint(swayed(organ, rng), tissue_hu)
    label = canvas.label
    label[label > config.classes] = 0
    return scanned(canvas.image, rng), label


def _nifti(array_zyx: np.ndarray, spacing_mm: Spacing) -> bytes:
    """A gzipped NIfTI file in RAS+ with the origin in its middle; the same bytes each time."""
    steps = np.array(spacing_mm[::-1])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (np.array(array_zyx.shape[::-1]) - 1) / 2
    image = nib.Nifti1Image(array_zyx.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)
