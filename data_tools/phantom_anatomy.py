"""The frame of the phantom patient: structure names, views, tissues, trunk outline and spine.

Not for: the organs and bones themselves (`phantom_organs`, `phantom_skeleton`), voxels (`phantom`).

The body frame is in mm: x to the patient's Right, y Anterior, z Superior; z = 0 is the disc between
the vertebrae T12 and L1, x = y = 0 the middle of the trunk. Sizes are those of an adult, set by eye
to look like an abdominal CT and claiming no more; the smallest structures are a little enlarged so
that a coarse grid still shows them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_tools.phantom_shapes import Loft, Shape, mirrored

_SIDES = ("right", "left")


def _sided(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{side}" for name in names for side in _SIDES)


VERTEBRAE = (*(f"L{i}" for i in range(5, 0, -1)), *(f"T{i}" for i in range(12, 0, -1)))

# In order of usefulness: label value k is STRUCTURES[k - 1] whatever the number of classes.
# The names are TotalSegmentator's where it has the structure.
STRUCTURES: tuple[str, ...] = (
    *("liver", "spleen", "kidney_right", "kidney_left", "lung_right", "lung_left"),
    *("heart", "stomach", "aorta", "inferior_vena_cava", "pancreas", "gallbladder"),
    *("autochthon_right", "autochthon_left", "spinal_cord", "portal_vein_and_splenic_vein"),
    *("urinary_bladder", "colon", "small_bowel", "sacrum"),
    *_sided("hip", "gluteus_maximus", "gluteus_medius", "femur", "iliopsoas", "scapula"),
    *("trachea", "esophagus", "sternum", "duodenum", "prostate"),
    *(f"vertebrae_{level}" for level in VERTEBRAE),
    *_sided("rectus_abdominis"),
    *(f"rib_{side}_{number}" for number in range(1, 13) for side in _SIDES),
    *("costal_cartilages", "pulmonary_artery", "superior_vena_cava", "pulmonary_vein"),
    *_sided("humerus", "clavicula", "gluteus_minimus", "iliac_artery", "iliac_vena"),
    *_sided("brachiocephalic_vein", "subclavian_artery", "common_carotid_artery"),
    *("brachiocephalic_trunk", "thyroid_gland"),
    *_sided("adrenal_gland"),
)


@dataclass(frozen=True)
class View:
    """What part of the body a scan for the first `classes` structures shows.

    Attributes:
        classes: The view serves up to this many structures.
        low_mm, high_mm: Corners in the body frame, z y x, that must lie inside the field of view.
        voxel_mm: The coarsest voxel, in the body frame, that still shows every structure.
    """

    classes: int
    low_mm: tuple[float, float, float]
    high_mm: tuple[float, float, float]
    voxel_mm: float

    @property
    def size_mm(self) -> np.ndarray:
        """Extent (3,) in z y x order."""
        return np.subtract(self.high_mm, self.low_mm)

    @property
    def centre_mm(self) -> np.ndarray:
        """Centre (3,) in z y x order."""
        return np.add(self.high_mm, self.low_mm) / 2


VIEWS = (
    View(16, (-95, -160, -188), (160, 130, 188), voxel_mm=9.0),  # upper abdomen
    View(56, (-320, -160, -188), (290, 130, 188), voxel_mm=9.6),  # trunk
    View(104, (-320, -160, -188), (290, 130, 188), voxel_mm=6.7),  # trunk, with its small parts
)


def view_for(classes: int) -> View:
    """The view of a scan for the first `classes` structures."""
    return next(view for view in VIEWS if classes <= view.classes)


# Mean HU in the portal venous phase and its standard deviation from case to case.
TISSUES: dict[str, tuple[float, float]] = {
    "air": (-1000, 0),
    "gas": (-940, 15),
    "foam": (-930, 5),
    "lung": (-850, 20),
    "fat": (-102, 4),
    "bile": (8, 4),
    "urine": (6, 4),
    "fluid": (15, 5),
    "cord": (38, 3),
    "disc": (75, 6),
    "skin": (20, 5),
    "bowel_wall": (62, 8),
    "bowel_content": (22, 10),
    "stool": (5, 15),
    "gland": (88, 6),
    "pancreas": (92, 6),
    "thyroid": (170, 10),
    "muscle": (55, 4),
    "myocardium": (98, 6),
    "liver": (106, 5),
    "spleen": (134, 5),
    "vein": (150, 8),
    "artery": (162, 9),
    "kidney": (200, 8),
    "cartilage": (105, 10),
    "shell": (120, 0),
    "spongy": (230, 25),
    "cortical": (900, 60),
}


# (tissue, depth in mm) from the outside inwards.
Layers = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Organ:
    """One row of the painting table; a later row covers an earlier one.

    Attributes:
        name: A name of `STRUCTURES`, or None for what is seen but not labelled.
        shapes: Its solids.
        layers: What it is made of, such as `(("cortical", 0.0), ("spongy", 2.0))`. A negative
            depth is a rim around the organ, which is not labelled.
        sway_mm: Standard deviation of its position from case to case; its size then varies too.
        confined: Cut off at the inner wall of the trunk.
    """

    name: str | None
    shapes: tuple[Shape, ...]
    layers: Layers
    sway_mm: float = 0.0
    confined: bool = False


def pair(
    name: str | None,
    shapes: tuple[Shape, ...],
    layers: Layers,
    sway_mm: float = 0.0,
    confined: bool = False,
) -> tuple[Organ, Organ]:
    """A right organ as given, named `name_right`, and its mirror image, named `name_left`."""
    right, left = (f"{name}_{side}" if name else None for side in _SIDES)
    return (
        Organ(right, shapes, layers, sway_mm, confined),
        Organ(left, mirrored(shapes), layers, sway_mm, confined),
    )


# (z, half width, half depth, y of the centre)
BODY = Loft(
    rows=(
        (-420, 156, 96, -8),
        (-340, 168, 104, -8),
        (-300, 176, 112, -8),
        (-240, 178, 114, -8),
        (-180, 168, 110, -6),
        (-120, 155, 106, -2),
        (-60, 150, 106, 0),
        (0, 156, 110, -2),
        (50, 161, 113, -4),
        (100, 164, 114, -5),
        (150, 168, 112, -6),
        (200, 178, 106, -9),
        (235, 184, 96, -12),
        (258, 168, 86, -14),
        (276, 118, 76, -14),
        (292, 74, 68, -12),
        (312, 60, 62, -10),
        (400, 58, 62, -8),
    ),
    exponent=2.45,
)

# The inner wall of chest, abdomen and pelvis: lungs and bowel lie inside it, ribs run around it.
CAVITY = Loft(
    rows=(
        (-312, 14, 12, 0),
        (-285, 44, 42, -4),
        (-240, 66, 58, -6),
        (-180, 98, 70, 2),
        (-120, 118, 76, 4),
        (-60, 124, 78, 3),
        (0, 131, 82, 0),
        (50, 134, 86, -2),
        (100, 131, 86, -3),
        (150, 122, 82, -5),
        (200, 102, 70, -12),
        (235, 72, 52, -20),
        (255, 44, 34, -26),
        (264, 16, 14, -28),
    ),
    exponent=2.2,
)

# (z, y) of the middle of the vertebral bodies: lumbar lordosis, thoracic kyphosis.
_SPINE = (
    (-175, -56),
    (-130, -45),
    (-70, -41),
    (0, -49),
    (60, -59),
    (130, -65),
    (200, -60),
    (264, -46),
    (400, -34),
)


def spine_y(z: float) -> float:
    """The y coordinate in mm of the vertebral bodies' middle at height `z`."""
    levels, depths = zip(*_SPINE, strict=True)
    return float(np.interp(z, levels, depths))


def vertebra_z(level: str) -> float:
    """Height in mm of the middle of a vertebra: `T12`, `L1`, `C7`."""
    number = int(level[1:])
    heights = {"L": 17 - 34 * number, "T": 11 + 22 * (12 - number), "C": 272 + 16 * (7 - number)}
    return float(heights[level[0]])
