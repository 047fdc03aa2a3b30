"""nnU-Net v2: its preprocessed files, its loader and its default augmentation at 128^3."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from benchmarks.inputs import BATCH, CLIP_HU, FOREGROUND, LABELS, MEAN_HU, PATCH, STD_HU

Turn = Callable[[], Any]

# As nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size for a cubic patch.
ROTATION = (-np.pi / 6, np.pi / 6)
INITIAL_PATCH = get_patch_size(PATCH, ROTATION, ROTATION, ROTATION, (0.85, 1.25))
MIRROR_AXES = (0, 1, 2)
SCALES = [[1 / 2**level] * 3 for level in range(5)]  # of deep supervision


def _manager(labels: int) -> LabelManager:
    names = {"background": 0, **{f"label_{value}": value for value in range(1, labels)}}
    return LabelManager(names, None)


def write_dataset(volumes: str, folder: str, labels: int) -> Turn:
    """Save all volumes as its preprocessor does after resampling; a turn does it once."""

    def turn() -> None:
        Path(folder).mkdir(parents=True)
        for file in sorted(Path(volumes).glob("image_*.npy")):
            label = np.load(file.with_name(file.name.replace("image", "label")))
            if labels != LABELS:
                label = label > 0
            _save_case(np.load(file), label, f"{folder}/{file.stem}", labels)

    return turn


def _save_case(image: np.ndarray, label: np.ndarray, path: str, labels: int) -> None:
    properties = {
        "percentile_00_5": CLIP_HU[0],
        "percentile_99_5": CLIP_HU[1],
        "mean": MEAN_HU,
        "std": STD_HU,
    }
    data = CTNormalization(False, properties).run(image.astype(np.float32))[None]
    seg = label.astype(np.int16)[None]
    locations = DefaultPreprocessor._sample_foreground_locations(
        seg, _manager(labels).foreground_labels
    )
    blocks, chunks = comp_blosc2_params(data.shape, PATCH, data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, PATCH, seg.itemsize)
    nnUNetDatasetBlosc2.save_case(
        data,
        seg,
        {"class_locations": locations},
        path,
        chunks=chunks,
        blocks=blocks,
        chunks_seg=chunks_seg,
        blocks_seg=blocks_seg,
    )


def _loader(folder: str, labels: int, window: Any, transforms: Any = None) -> nnUNetDataLoader:
    np.random.seed(0)
    torch.manual_seed(0)
    dataset = nnUNetDatasetBlosc2(folder)
    manager = _manager(labels)
    return nnUNetDataLoader(
        dataset, BATCH, window, PATCH, manager, FOREGROUND, transforms=transforms
    )


def reading(folder: str, patches: int, window: tuple[int, ...] | None = None) -> Turn:
    """Read random boxes of image and label: of the size its loader asks for, or of `window`."""
    loader = _loader(folder, 2, INITIAL_PATCH if window is None else window)
    dataset = loader._data

    def turn() -> list[int]:
        for _ in range(patches):
            name = dataset.identifiers[np.random.randint(len(dataset.identifiers))]
            data, seg, _, _ = dataset.load_case(name)
            corners = loader.get_bbox(data.shape[1:], False, None)
            box = [list(side) for side in zip(*corners, strict=True)]
            crop_and_pad_nd(data, box, 0)
            crop_and_pad_nd(seg, box, -1)
        return [int(side) for side in loader.patch_size]

    return turn


def cold_reading(folder: str, patches: int) -> Turn:
    """Read as `reading`, each time after the page cache was told to forget the files."""
    read = reading(folder, 1)
    files = [str(file) for file in Path(folder).iterdir()]

    def turn() -> None:
        for _ in range(patches):
            for file in files:
                descriptor = os.open(file, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
            read()

    return turn


def loading(folder: str, labels: int, patches: int, augment: bool) -> Turn:
    """Make batches in this process, with the trainer's default transforms or without."""
    transforms = None
    if augment:
        transforms = nnUNetTrainer.get_training_transforms(
            np.array(PATCH),
            ROTATION,
            SCALES,
            MIRROR_AXES,
            False,
            use_mask_for_norm=[False],
            foreground_labels=_manager(labels).foreground_labels,
        )
    loader = _loader(folder, labels, INITIAL_PATCH, transforms)

    def turn() -> None:
        for _ in range(patches // BATCH):
            next(loader)

    return turn
