"""Small frozen records that several packages share. No logic, no I/O, no torch at import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

Size3 = tuple[int, int, int]  # z, y, x
Spacing = tuple[float, float, float]  # z, y, x, in mm

Scheme = Literal["ct", "zscore", "rescale", "none"]


@dataclass(frozen=True)
class Channel:
    """One input channel and how its physical values become network input.

    Attributes:
        name: What the channel holds, e.g. `CT`, `T1`, `PET`.
        scheme: `ct`: clip to `clip`, subtract `mean`, divide by `std` (data-set statistics);
            `zscore`: subtract the mean of the whole volume, divide by its standard deviation;
            `rescale`: map the volume's minimum and maximum to 0 and 1; `none`: leave as is.
        clip: Lower and upper bound in physical units (HU for CT), or None.
        mean: Data-set mean over foreground voxels in physical units; used by `ct` only.
        std: Data-set standard deviation over foreground voxels; used by `ct` only.
    """

    name: str
    scheme: Scheme
    clip: tuple[float, float] | None = None
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class ChannelStatistics:
    """Of one channel of one volume at the target spacing: physical units, before clipping."""

    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class Preprocessing:
    """What a volume goes through before a network sees it; travels with the weights.

    Attributes:
        spacing_mm: Target voxel spacing, z y x.
        patch_size: Patch in voxels, z y x.
        channels: The input channels in order.
    """

    spacing_mm: Spacing
    patch_size: Size3
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class Region:
    """What one output of a network stands for where outputs may overlap.

    Attributes:
        name: What it is called in logs and scores.
        values: The label values that it is the union of.
        paints: The label value that a voxel gets where the output is positive, unless a later
            region is positive there too.
    """

    name: str
    values: tuple[int, ...]
    paints: int


@dataclass(frozen=True)
class Batch:
    """What the loader yields and the step consumes.

    Attributes:
        image_bcdhw: float32 network input, already normalised and augmented.
        label_bdhw: int16 label values; `ignore_label` of the data set where unlabelled.
        sample_ids: The global sample index of each row: patch i is a pure function of (seed, i).
        case_ids: The case each row was cut from, for messages.
        annotated_bk: bool, the outputs of a network that are annotated in each row: classes,
            background included, or regions; None: all in every row. Where a row lacks a class, its
            voxels of value 0 may belong to it.
        patch_s: Mean seconds that a worker took to read and augment a row; 0: not measured.
        augment_s: Of these, what the augmentation took.
    """

    image_bcdhw: torch.Tensor
    label_bdhw: torch.Tensor
    sample_ids: tuple[int, ...]
    case_ids: tuple[str, ...] = field(default=())
    annotated_bk: torch.Tensor | None = None
    patch_s: float = 0.0
    augment_s: float = 0.0


@dataclass(frozen=True)
class RawCase:
    """One labelled scan as it lies on disk.

    Attributes:
        case_id: Unique within the data set; letters, digits, `_`, `-`, `.`.
        images: One file (or DICOM folder) per channel, in channel order.
        label: The label file, or a folder of one binary mask per structure; None if unlabelled.
        split: `train`, `val` or `test` where the data set says so, else None.
        annotated: Names of the structures that are annotated in this case; any other may be there
            without a label. None: all of the data set's.
        label_map: Where the label has a numbering of its own: name in the label source to (value
            there, value in the data set). None: it is numbered as the data set.
        licence: Licence of this case; None: the data set's.
    """

    case_id: str
    images: tuple[str, ...]
    label: str | None
    split: Literal["train", "val", "test"] | None = None
    annotated: tuple[str, ...] | None = None
    label_map: dict[str, tuple[int, int]] | None = None
    licence: str | None = None


@dataclass(frozen=True)
class RawDataset:
    """A folder of labelled scans, or several in one label space; listed but not read.

    Attributes:
        name: Folder or declared name.
        layout: Which convention was recognised, e.g. `nnunet`; `union` for several data sets.
        channel_names: One name per image channel, e.g. `("CT",)`.
        labels: Structure name to label value, `background: 0` included.
        ignore_label: Value that marks unlabelled voxels, or None.
        cases: All cases, sorted by id.
        licence: Data licence as declared, or "unknown".
        regions: Region name to the label values it is the union of, in declared order; empty where
            the labels themselves are learned. Regions may overlap.
        regions_class_order: For each region the label value that it paints when regions are made
            into a label map, later ones over earlier ones.
    """

    name: str
    layout: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    ignore_label: int | None
    cases: tuple[RawCase, ...]
    licence: str = "unknown"
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    regions_class_order: tuple[int, ...] = ()


@dataclass(frozen=True)
class CaseArrays:
    """One case at the target spacing, ready to be written to the store.

    Attributes:
        image_czyx: int16, physical value = stored * scale[c] + offset[c].
        label_zyx: uint8 or uint16 label values.
        affine: (4, 4) float64, voxel index (x, y, z, 1) to RAS+ mm.
        scale, offset: One float per channel.
        statistics: One record per channel.
        annotated: Label values that are annotated in this case, without 0; None: all.
    """

    case_id: str
    image_czyx: np.ndarray
    label_zyx: np.ndarray
    affine: np.ndarray
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    statistics: tuple[ChannelStatistics, ...]
    split: str
    source_sha256: dict[str, str]
    licence: str = "unknown"
    annotated: tuple[int, ...] | None = None
