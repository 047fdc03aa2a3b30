"""Measure the structures of one case: volume, place, pieces and holes, in world millimetres.

One pass over the label map (`audit_components`); what the numbers mean is judged elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from data_tools.audit_components import Components, find_components
from data_tools.audit_finding import Case
from stunet.io.manifest import CaseRow, DatasetInfo
from stunet.types import Size3, Spacing

MEASURED_PIECES = 20  # largest pieces of a structure whose distance is measured
MAIN_POINTS, PIECE_POINTS = 100_000, 2_000  # voxels between which distances are taken


@dataclass(frozen=True)
class Piece:
    """A connected piece of a structure, or a hole in it.

    Attributes:
        volume_mm3: Its volume.
        centre_zyx: Its centre, in voxels.
        distance_mm: Shortest way to the largest piece of its structure, 0 for that and for holes.
    """

    volume_mm3: float
    centre_zyx: Size3
    distance_mm: float = 0.0


@dataclass(frozen=True)
class Structure:
    """One structure in one case.

    Attributes:
        volume_mm3: All of it.
        centre_mm: Its centre in RAS+ world mm: x, y, z.
        centre_zyx: The same in voxels.
        cut: Whether it reaches the border of the volume along z, y, x.
        pieces: Its largest pieces, largest first.
        all_pieces: How many there are.
        holes: Enclosed background, largest first.
    """

    volume_mm3: float
    centre_mm: tuple[float, float, float]
    centre_zyx: Size3
    cut: tuple[bool, bool, bool]
    pieces: tuple[Piece, ...]
    all_pieces: int
    holes: tuple[Piece, ...]


@dataclass(frozen=True)
class CaseMeasure:
    """One case.

    Attributes:
        case: Which one.
        spacing_mm: Of its source if that is known, else of the store; z y x.
        extent_mm: Field of view z y x.
        structures: By name.
    """

    case: Case
    spacing_mm: Spacing
    extent_mm: Spacing
    structures: dict[str, Structure]


def measure_case(
    case: Case, row: CaseRow, info: DatasetInfo, source_mm: Spacing | None, label_zyx: np.ndarray
) -> CaseMeasure:
    """Measure a case.

    Args:
        case: Which one.
        row: Its record in the store.
        info: What the cases of the store share.
        source_mm: Voxel size of its source, if it is known.
        label_zyx: Its label map; values that no structure has are left aside.
    """
    components = find_components(label_zyx)
    cut = components.touches(label_zyx.shape)
    affine = np.array(row.affine).reshape(4, 4)
    order = np.lexsort((-components.voxels, components.value))
    values, starts = np.unique(components.value[order], return_index=True)
    groups = dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))
    holes = _holes(components, cut)
    structures = {}
    for name, value in info.labels.items():
        if value and value in groups:
            inside = holes[components.around[holes] == value]
            structures[name] = _structure(
                components, groups[value], inside, cut, affine, info.spacing_mm
            )
    extent = [n * side for n, side in zip(row.shape_zyx, info.spacing_mm, strict=True)]
    return CaseMeasure(
        case, source_mm or info.spacing_mm, (extent[0], extent[1], extent[2]), structures
    )


def _holes(components: Components, cut: np.ndarray) -> np.ndarray:
    """Background pieces inside one structure, largest first."""
    inside = (components.value == 0) & (components.around > 0) & ~cut.any(axis=1)
    found = np.flatnonzero(inside)
    return found[np.argsort(-components.voxels[found], kind="stable")]


def _structure(
    components: Components,
    pieces: np.ndarray,
    holes: np.ndarray,
    cut: np.ndarray,
    affine: np.ndarray,
    spacing_mm: Spacing,
) -> Structure:
    voxels = components.voxels[pieces]
    voxel_mm3 = float(np.prod(spacing_mm))
    centre = components.sums[pieces].sum(axis=0) / voxels.sum()
    world = affine[:3, :3] @ centre[::-1] + affine[:3, 3]
    z_cut, y_cut, x_cut = (bool(flag) for flag in cut[pieces].any(axis=0))
    distances = _distances(components, pieces[:MEASURED_PIECES], spacing_mm)
    return Structure(
        volume_mm3=int(voxels.sum()) * voxel_mm3,
        centre_mm=(float(world[0]), float(world[1]), float(world[2])),
        centre_zyx=_rounded(centre),
        cut=(z_cut, y_cut, x_cut),
        pieces=tuple(
            _piece(components, piece, voxel_mm3, distance)
            for piece, distance in zip(pieces[:MEASURED_PIECES], distances, strict=True)
        ),
        all_pieces=len(pieces),
        holes=tuple(_piece(components, hole, voxel_mm3) for hole in holes),
    )


def _piece(components: Components, piece: int, voxel_mm3: float, distance_mm: float = 0.0) -> Piece:
    voxels = int(components.voxels[piece])
    centre = components.sums[piece] / voxels
    return Piece(voxels * voxel_mm3, _rounded(centre), distance_mm)


def _rounded(centre_zyx: np.ndarray) -> Size3:
    z, y, x = np.round(centre_zyx).astype(int).tolist()
    return z, y, x


def _distances(components: Components, pieces: np.ndarray, spacing_mm: Spacing) -> list[float]:
    """Shortest way in mm from each piece to the first, of which large ones are thinned."""
    if len(pieces) == 1:
        return [0.0]
    tree = cKDTree(components.points(pieces[0], MAIN_POINTS) * spacing_mm)
    points = (components.points(piece, PIECE_POINTS) * spacing_mm for piece in pieces[1:])
    return [0.0, *(float(tree.query(place)[0].min()) for place in points)]
