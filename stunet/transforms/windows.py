"""Windows of volumes and what turns them into patches, in a loader worker or on the device.

A window is the box of normalised voxels that a patch needs. `augment` and `augment_on_device` do
the same to it: labels are equal to the bit, and so are images unless intensities are drawn, whose
sums over a patch a device may round otherwise (within 1e-4; see docs/decisions/0011). Not for
drawing (`stunet.transforms.augment`) or reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stunet.transforms.intensity import IntensityDraw, apply_intensity, noise_of
from stunet.transforms.label_vote import vote_labels
from stunet.transforms.spatial import Sampling, SpatialDraw, mirror, plan_sampling, resample_image
from stunet.transforms.spatial_torch import resample_window
from stunet.types import Batch, Size3, Spacing


@dataclass(frozen=True)
class Augmentation:
    """What turns a window into a patch.

    Attributes:
        sampling: Where the voxels of the patch come from; None: the window is the patch, but for
            mirroring.
        mirror: Which axes are flipped then; a `sampling` contains it.
        intensity: What follows.
    """

    sampling: Sampling | None
    mirror: tuple[bool, bool, bool]
    intensity: IntensityDraw


@dataclass(frozen=True)
class Window:
    """The voxels that a patch needs and what turns them into it.

    Attributes:
        image_czyx: float32, normalised; 0 outside the volume.
        label_zyx: uint8 or int16; 0 outside the volume.
        augmentation: What is to be done.
        noise_cdhw: The noise of the patch, where it was made ahead; see `with_noise`.
    """

    image_czyx: Tensor
    label_zyx: Tensor
    augmentation: Augmentation
    noise_cdhw: Tensor | None = None


@dataclass(frozen=True)
class WindowBatch:
    """A batch on its way to the device that will augment it: what a loader yields for `Batch`.

    Attributes:
        windows: One per row, in the sizes they have: padded to one size a batch would take twice
            the memory and time (docs/decisions/0011).
        sample_ids, case_ids, annotated_bk: As in `Batch`.
        patch_s: Mean seconds that a worker took to read a row and make its noise.
        augment_s: Of these, what the noise took.
    """

    windows: tuple[Window, ...]
    sample_ids: tuple[int, ...]
    case_ids: tuple[str, ...]
    annotated_bk: Tensor | None
    patch_s: float
    augment_s: float


def plan_augmentation(
    spatial: SpatialDraw,
    intensity: IntensityDraw,
    spacing_mm: Spacing,
    start_zyx: Size3,
    patch_size: Size3,
) -> tuple[Augmentation, Size3, Size3]:
    """Find out what is to be done for a patch, and the start and shape of the window it needs."""
    if not spatial.interpolates:
        return Augmentation(None, spatial.mirror, intensity), start_zyx, patch_size
    sampling = plan_sampling(spatial, spacing_mm, start_zyx, patch_size)
    whole = Augmentation(sampling, spatial.mirror, intensity)
    return whole, sampling.window_start, sampling.window_shape


def augment(window: Window) -> tuple[Tensor, Tensor]:
    """Make a patch of a window on a CPU: float32 (C, D, H, W) and int16 (D, H, W)."""
    todo = window.augmentation
    image, label = window.image_czyx.numpy(), window.label_zyx.numpy()
    if todo.sampling is None:
        image = np.ascontiguousarray(mirror(image, todo.mirror))
        label = np.ascontiguousarray(mirror(label, todo.mirror), np.int16)
    else:
        image, label = resample_image(image, todo.sampling), vote_labels(label, todo.sampling)
    with _one_torch_thread():
        return apply_intensity(torch.from_numpy(image), todo.intensity), torch.from_numpy(label)


def with_noise(window: Window) -> Window:
    """Make the noise of a window's patch ahead: a device cannot, see `intensity.noise_of`."""
    sampling = window.augmentation.sampling
    patch_size = window.label_zyx.shape if sampling is None else sampling.patch_size
    noise = noise_of(window.augmentation.intensity, (len(window.image_czyx), *patch_size))
    return replace(window, noise_cdhw=noise)


def augment_on_device(window: Window, device: torch.device) -> tuple[Tensor, Tensor]:
    """Send a window to a device and make its patch there; as `augment`, in plain torch."""
    todo = window.augmentation
    image, label = (
        tensor.to(device, non_blocking=True) for tensor in (window.image_czyx, window.label_zyx)
    )
    if todo.sampling is None:
        axes = [axis - 3 for axis, flip in enumerate(todo.mirror) if flip]
        image, label = image.flip(axes), label.flip(axes).to(torch.int16)
    else:
        image, label = resample_window(image, label, todo.sampling)
    with _one_torch_thread():
        return apply_intensity(image, todo.intensity, window.noise_cdhw), label


def augment_batch(batch: WindowBatch, device: torch.device) -> Batch:
    """Make the patches of a batch on a device, one after the other."""
    patches = [augment_on_device(window, device) for window in batch.windows]
    return Batch(
        image_bcdhw=torch.stack([image for image, _ in patches]),
        label_bdhw=torch.stack([label for _, label in patches]),
        sample_ids=batch.sample_ids,
        case_ids=batch.case_ids,
        annotated_bk=batch.annotated_bk,
        patch_s=batch.patch_s,
    )


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Sums depend in their last bits on how many threads share them; patches must not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
