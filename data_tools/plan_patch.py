"""The largest patch that fits a voxel budget, and the strides that fit the patch.

Pure geometry: knows nothing of intensities or files.
"""

from __future__ import annotations

from math import prod

from stunet.errors import ConfigError
from stunet.types import Size3, Spacing

Strides = tuple[Size3, ...]

STEPS = 5  # down-sampling steps of STU-Net
SMALLEST_EDGE = 4  # voxels of the deepest feature map along an axis that was halved


def plan_strides(patch_size: Size3, spacing_mm: Spacing) -> Strides:
    """Five steps that halve an axis while it is long enough and about as fine as the finest.

    An axis is halved if at least four voxels remain and its current spacing is below twice the
    finest among the axes that can still be halved. Thick slices thus wait until the in-plane axes
    have caught up. Steps with nothing to halve are `(1, 1, 1)`.

    >>> plan_strides((128, 128, 128), (1.5, 1.5, 1.5))[4]
    (2, 2, 2)
    >>> plan_strides((32, 128, 128), (5.0, 1.0, 1.0))
    ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))

    Source: nnU-Net's network topology rule.
    """
    edges, spacing = list(patch_size), list(spacing_mm)
    strides = []
    for _ in range(STEPS):
        long_enough = [axis for axis in range(3) if edges[axis] >= 2 * SMALLEST_EDGE]
        finest = min((spacing[axis] for axis in long_enough), default=0.0)
        halved = [axis for axis in long_enough if spacing[axis] < 2 * finest]
        for axis in halved:
            edges[axis] = -(-edges[axis] // 2)
            spacing[axis] *= 2
        z, y, x = (2 if axis in halved else 1 for axis in range(3))
        strides.append((z, y, x))
    return tuple(strides)


def patch_divisor(strides: Strides) -> Size3:
    """What the patch must be a multiple of, z y x.

    >>> patch_divisor(((2, 2, 2), (1, 2, 2)))
    (2, 4, 4)
    """
    z, y, x = (prod(step[axis] for step in strides) for axis in range(3))
    return z, y, x


def fit_patch(
    median_shape: Size3, spacing_mm: Spacing, budget_voxels: int, strides: Strides | None
) -> tuple[Size3, Strides]:
    """A patch that is as cubic in mm as the median case allows, within a voxel budget.

    Args:
        median_shape: Median case at the target spacing, z y x.
        spacing_mm: Target spacing, z y x.
        budget_voxels: Most voxels of the patch.
        strides: To keep, or None to plan them with the patch.

    Returns:
        The patch, covering at most the median case rounded up to a multiple of the strides, and
        the strides.

    Raises:
        ConfigError: the budget is smaller than one multiple of the given strides.
    """
    edges = _isotropic_edges(median_shape, spacing_mm, budget_voxels)
    while True:
        chosen = strides or plan_strides(edges, spacing_mm)
        divisor = patch_divisor(chosen)
        z, y, x = (-(-edge // step) * step for edge, step in zip(edges, divisor, strict=True))
        patch_size = (z, y, x)
        if prod(patch_size) <= budget_voxels:
            return patch_size, chosen
        shrinkable = [axis for axis in range(3) if patch_size[axis] > divisor[axis]]
        if not shrinkable:
            raise ConfigError(
                f"patch_voxels={budget_voxels}: the strides need at least {divisor}; allow "
                f"{prod(divisor)} voxels or stride less"
            )
        # The axis that covers most of the median case can spare most.
        most = max(shrinkable, key=lambda axis: patch_size[axis] / median_shape[axis])
        z, y, x = (
            patch_size[axis] - divisor[axis] if axis == most else edges[axis] for axis in range(3)
        )
        edges = (z, y, x)


def _isotropic_edges(median_shape: Size3, spacing_mm: Spacing, budget_voxels: int) -> Size3:
    """Edges equal in mm, cut to the median shape; what is cut off lengthens the other axes."""
    edges = [float(edge) for edge in median_shape]
    free = {0, 1, 2}
    while free:
        rest = budget_voxels / prod(edges[axis] for axis in range(3) if axis not in free)
        side_mm = (rest * prod(spacing_mm[axis] for axis in free)) ** (1 / len(free))
        cut = {axis for axis in free if side_mm / spacing_mm[axis] >= median_shape[axis]}
        if not cut:
            for axis in free:
                edges[axis] = side_mm / spacing_mm[axis]
            break
        free -= cut
    z, y, x = (max(1, round(edge)) for edge in edges)
    return z, y, x
