"""Patches of a data set by number: draws are made first, then only the voxels they need are read.

A `PatchSource` is a map-style data set without end. It is not for whole volumes (inference reads
files), knows neither ranks nor workers (`stunet.data.loader` does), and neither how its voxels are
stored nor with what other data sets it is mixed (`stunet.data.mixture`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from stunet.data.sampler import (
    Purpose,
    SamplerConfig,
    case_of,
    foreground_label,
    patch_start,
    stream,
    visit_of,
)
from stunet.errors import ConfigError, DataError
from stunet.io.manifest import CaseRow, DatasetInfo
from stunet.transforms.augment import AugmentConfig, draw_intensity, draw_spatial
from stunet.transforms.intensity import IntensityDraw
from stunet.transforms.normalize import normalize
from stunet.transforms.spatial import SpatialDraw
from stunet.transforms.windows import Window, augment, plan_augmentation, with_noise
from stunet.types import Size3


class CaseReader(Protocol):
    """What patches are cut from: a `Store`, or whole volumes of tars.

    Attributes:
        root: Where it lies, for messages.
        info: What the cases share.
        rows: The cases; `case` below is an index into them.
    """

    @property
    def root(self) -> object: ...  # noqa: D102 - see above

    @property
    def info(self) -> DatasetInfo: ...  # noqa: D102

    @property
    def rows(self) -> Sequence[CaseRow]: ...  # noqa: D102

    def read_patch(
        self, case: int, start_zyx: Size3, shape_zyx: Size3
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a box inside a case: the image as stored, int16 (C, z, y, x), and the labels.

        Labels are uint8 or uint16 (z, y, x). Neither is written to.
        """

    def foreground(self, case: int, label_value: int) -> np.ndarray:
        """Return voxels of a label, int64 (n, 3) as z, y, x."""


Room = tuple[torch.Tensor, torch.Tensor]  # of a patch: float32 (C, D, H, W), int16 (D, H, W)


@dataclass(frozen=True)
class PatchDraw:
    """Everything random about one patch.

    Attributes:
        sample: Number of the patch.
        case: Index into the rows of its data set.
        case_id: Its name.
        label: The label that the patch is centred on, or None if it was placed anywhere.
        start_zyx: First voxel in the volume before the spatial transform; may be negative.
        spatial, intensity: The augmentation.
    """

    sample: int
    case: int
    case_id: str
    label: int | None
    start_zyx: Size3
    spatial: SpatialDraw
    intensity: IntensityDraw


@dataclass(frozen=True)
class RawPatch:
    """A training example before its augmentation.

    Attributes:
        window: The voxels it needs, and what is to be done to them.
        draw, annotated_k: As in `Patch`.
    """

    window: Window
    draw: PatchDraw
    annotated_k: torch.Tensor | None = None

    def augmented(self) -> Patch:
        """Augment it here, on the CPU."""
        return Patch(*augment(self.window), self.draw, self.annotated_k)

    def for_device(self) -> RawPatch:
        """With all that the device cannot make by itself."""
        return replace(self, window=with_noise(self.window))


@dataclass(frozen=True)
class Patch:
    """One training example.

    Attributes:
        image_cdhw: float32, normalised and augmented; 0 outside the volume.
        label_dhw: int16; 0 outside the volume.
        draw: How it came about.
        annotated_k: bool, the outputs of a network that are annotated in its case: classes,
            background included, or regions; None: all.
    """

    image_cdhw: torch.Tensor
    label_dhw: torch.Tensor
    draw: PatchDraw
    annotated_k: torch.Tensor | None = None


class PatchSource:
    """All patches of some cases of a data set: `source[i]` depends on the seed and i alone.

    Args:
        store: Where the cases lie; the source pickles with it.
        case_indices: The cases to cut from, as indices into `store.rows`.
        patch_size: Patch in voxels, z y x.
        seed: 0 or above.
        sampler: Placement of patches.
        augment: Augmentation.
        dataset: Number of the data set in a mixture.

    Raises:
        ConfigError: No case, or a seed out of range.
        DataError: A label value that int16 cannot hold.
    """

    def __init__(
        self,
        store: CaseReader,
        case_indices: Sequence[int],
        patch_size: Size3,
        seed: int,
        sampler: SamplerConfig,
        augment: AugmentConfig,
        dataset: int = 0,
    ) -> None:
        if not case_indices:
            raise ConfigError(f"store {store.root}: no case to train on; check the split")
        if not 0 <= seed < 2**64:
            raise ConfigError(f"seed={seed}: give a number from 0 to 2^64 - 1")
        largest = max(store.info.label_space)
        if largest > np.iinfo(np.int16).max:
            raise DataError(f"store {store.root}: label {largest} is above 32767; renumber labels")
        self._store = store
        self._cases = tuple(case_indices)
        self._patch_size = patch_size
        self._seed = seed
        self._sampler = sampler
        self._augment = augment
        self._dataset = dataset

    def __getitem__(self, sample: int) -> Patch:
        """Read and augment patch number `sample`.

        Raises:
            DataError: A shard is missing or damaged.
        """
        return self.raw(sample).augmented()

    def raw(self, sample: int, room: Room | None = None, visit: int | None = None) -> RawPatch:
        """Read what patch number `sample` of a run needs, cut in a visit of this data set.

        Args:
            sample: Its number.
            room: Where to put the window if it has that size and its voxels stay as they are.
            visit: Of this data set, if that does not follow from the number alone.

        Raises:
            DataError: A shard is missing or damaged.
        """
        draw = self.draw(sample, visit)
        augmentation, start, shape = plan_augmentation(
            draw.spatial,
            draw.intensity,
            self._store.info.spacing_mm,
            draw.start_zyx,
            self._patch_size,
        )
        image, label = self._read(draw.case, start, shape, room)
        annotated_k = _annotated(self._store.rows[draw.case], self._store.info)
        return RawPatch(Window(image, label, augmentation), draw, annotated_k)

    def case(self, visit: int) -> int:
        """Return the case of a visit: an index into the rows."""
        return self._cases[case_of(self._seed, visit, len(self._cases), self._dataset)]

    def draw(self, sample: int, visit: int | None = None) -> PatchDraw:
        """Make all draws of a patch without reading a voxel; costs about 0.1 ms."""
        seed, info = self._seed, self._store.info
        case = self.case(visit_of(sample, self._sampler) if visit is None else visit)
        row = self._store.rows[case]
        label = foreground_label(seed, sample, sorted(row.foreground), self._sampler)
        around = None if label is None else self._store.foreground(case, label)
        return PatchDraw(
            sample=sample,
            case=case,
            case_id=row.case_id,
            label=label,
            start_zyx=patch_start(seed, sample, row.shape_zyx, self._patch_size, around),
            spatial=draw_spatial(
                self._augment, stream(seed, sample, Purpose.SPATIAL), info.spacing_mm
            ),
            intensity=draw_intensity(
                self._augment,
                stream(seed, sample, Purpose.INTENSITY),
                noise_seed=int(stream(seed, sample, Purpose.NOISE).integers(2**63)),
                channels=len(info.channels),
                spacing_mm=info.spacing_mm,
            ),
        )

    def describe(self, sample: int) -> dict[str, Any]:
        """Return the draws of a patch as plain values that JSON can hold."""
        return asdict(self.draw(sample))

    def locate(self, sample: int) -> str:
        """Say where a patch comes from, for messages: its case and the folder of its shards."""
        return self.place(visit_of(sample, self._sampler))

    def place(self, visit: int) -> str:
        """Say where a visit goes to, for messages."""
        row = self._store.rows[self.case(visit)]
        return f"case {row.case_id}, shard {self._store.root}/{row.path}"

    def _read(
        self, case: int, start_zyx: Size3, shape_zyx: Size3, room: Room | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a normalised box of a case and its labels, both 0 where the box leaves the volume.

        Labels are uint8 or int16. Every box of a patch meets the volume: its centre lies inside.
        """
        row = self._store.rows[case]
        axes = list(zip(start_zyx, shape_zyx, row.shape_zyx, strict=True))
        z, y, x = ((max(start, 0), min(start + size, side)) for start, size, side in axes)
        first, shape = (z[0], y[0], x[0]), (z[1] - z[0], y[1] - y[0], x[1] - x[0])
        stored, label = self._store.read_patch(case, first, shape)
        if room is not None and room[1].shape == shape:
            network_input(self._store, case, stored, room[0].numpy())
            np.copyto(room[1].numpy(), label, casting="unsafe")  # no label is above 32767
            return room
        image = network_input(self._store, case, stored)
        if shape != shape_zyx:
            before = [low - start for low, start in zip(first, start_zyx, strict=True)]
            image, label = (_embed(array, shape_zyx, before) for array in (image, label))
        if label.dtype == np.uint16:
            label = label.view(np.int16)  # no label is above 32767
        # A view of a kept volume is copied: torch takes writable arrays only.
        return torch.from_numpy(image), torch.from_numpy(np.require(label, requirements=["C", "W"]))


def network_input(
    store: CaseReader, case: int, stored_czyx: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Return stored voxels of a case as a network sees them: physical values, then normalised.

    Returns:
        (C, z, y, x) float32 array: `out`, or a new one.
    """
    row = store.rows[case]
    return normalize(stored_czyx, store.info.channels, row.statistics, row.scale, row.offset, out)


def _annotated(row: CaseRow, info: DatasetInfo) -> torch.Tensor | None:
    """Return which outputs of a network are annotated in a case, bool (K,); None if all are."""
    if row.annotated is None or {0, *row.annotated} >= set(info.labels.values()):
        return None
    if info.regions:
        return torch.tensor([{*row.annotated}.issuperset(r) for r in info.regions.values()])
    annotated_k = torch.zeros(max(info.labels.values()) + 1, dtype=torch.bool)
    annotated_k[[0, *row.annotated]] = True
    return annotated_k


def _embed(array: np.ndarray, shape_zyx: Size3, before: Sequence[int]) -> np.ndarray:
    """Put an array into one of zeros, `before` voxels from the start of each of the last axes."""
    whole = np.zeros((*array.shape[:-3], *shape_zyx), array.dtype)
    z, y, x = (slice(b, b + side) for b, side in zip(before, array.shape[-3:], strict=True))
    whole[..., z, y, x] = array
    return whole
