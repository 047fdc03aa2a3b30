"""MONAI: cached volumes, random crops and the transforms that come closest to nnU-Net's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from math import pi
from pathlib import Path

import numpy as np
from monai import transforms as mt
from monai.data import CacheDataset, list_data_collate
from monai.utils import set_determinism

from benchmarks.inputs import CLIP_HU, FOREGROUND, MEAN_HU, PATCH, STD_HU

BOTH = ("image", "label")
CROPS = 4  # per visit of a volume: fewer cost more per patch


def loading(volumes: str, patches: int, keep_indices: bool) -> Callable[[], None]:
    """Make augmented patches from cached volumes.

    Args:
        volumes: Folder of .npy files.
        patches: In a turn.
        keep_indices: Also cache where foreground and background lie (132 MB or more a case),
            instead of finding them at every visit.
    """
    set_determinism(0)
    files = [
        {"image": str(file), "label": str(file).replace("image_", "label_")}
        for file in sorted(Path(volumes).glob("image_*.npy"))
    ]
    fixed = [
        mt.LoadImaged(BOTH, reader="NumpyReader"),
        mt.EnsureChannelFirstd(BOTH, channel_dim="no_channel"),
        mt.ScaleIntensityRanged("image", *CLIP_HU, *CLIP_HU, clip=True),
        mt.NormalizeIntensityd("image", MEAN_HU, STD_HU),
        mt.CastToTyped(BOTH, (np.float32, np.uint8)),
    ]
    crop = mt.RandCropByPosNegLabeld(
        BOTH, "label", PATCH, FOREGROUND, 1 - FOREGROUND, num_samples=CROPS
    )
    if keep_indices:
        fixed.append(mt.FgBgToIndicesd("label"))
        crop = mt.RandCropByPosNegLabeld(
            BOTH,
            "label",
            PATCH,
            FOREGROUND,
            1 - FOREGROUND,
            num_samples=CROPS,
            fg_indices_key="label_fg_indices",
            bg_indices_key="label_bg_indices",
        )
    dataset = CacheDataset(
        files, mt.Compose([*fixed, crop, *_augmentation()]), num_workers=1, progress=False
    )
    numbers = cycle(range(len(dataset)))

    def turn() -> None:
        for _ in range(patches // CROPS):
            list_data_collate([dataset[next(numbers)]])

    return turn


def _augmentation() -> list[mt.Transform]:
    """Probabilities and ranges of nnU-Net's default; labels by nearest neighbour."""
    turn = (pi / 6,) * 3
    return [
        mt.RandAffined(
            BOTH,
            prob=1 - 0.8 * 0.8,  # rotation or scale
            rotate_range=turn,
            scale_range=((-0.3, 0.4),) * 3,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        mt.RandGaussianNoised("image", prob=0.1, std=0.1),
        mt.RandGaussianSmoothd("image", (0.5, 1), (0.5, 1), (0.5, 1), prob=0.2 * 0.5),
        mt.RandScaleIntensityd("image", 0.25, prob=0.15),
        mt.RandScaleIntensityFixedMeand("image", 0.25, preserve_range=True, prob=0.15),
        mt.RandSimulateLowResolutiond("image", prob=0.25 * 0.5, zoom_range=(0.5, 1)),
        mt.RandAdjustContrastd("image", 0.1, (0.7, 1.5), invert_image=True, retain_stats=True),
        mt.RandAdjustContrastd("image", 0.3, (0.7, 1.5), retain_stats=True),
        *(mt.RandFlipd(BOTH, 0.5, axis) for axis in range(3)),
    ]
