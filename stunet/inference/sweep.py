"""A network over the windows of a volume: finished planes of logits come out, one after the other.

Windows are visited along one axis. Only the planes that later windows still add to are kept, so
memory holds channels x one window's depth, never the volume. Not for files or other grids: input
is padded and normalised before, planes become labels in `export`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor

from stunet.errors import VolumeError
from stunet.inference.sliding_window import Box, WindowOptions, Windows, gaussian
from stunet.types import Size3

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # windows done, windows in all


@dataclass(frozen=True)
class Network:
    """What is swept over a volume.

    Attributes:
        body: Maps (B, C, z, y, x) to the logits of each voxel, or, with a `head`, to features; in
            evaluation mode.
        head: Maps features (1, F, z, y, x) to logits voxel by voxel and linearly. The mean over
            windows is then taken of the features and the head applied once: the same numbers up
            to rounding, for memory that does not grow with the number of classes.
        device: Where both live.
        paints: The label value that each output paints where it is positive, later outputs over
            earlier; empty: outputs exclude one another and the largest decides.
    """

    body: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor] | None = None
    device: torch.device | str = "cpu"
    paints: tuple[int, ...] = ()


@torch.no_grad()
def sweep_planes(
    network: Network,
    padded_czyx: Tensor,
    windows: Windows,
    inner: Box,
    options: WindowOptions,
    on_window: Progress | None = None,
) -> Iterator[Tensor]:
    """Yield the Gaussian-weighted mean of the logits of overlapping windows, plane by plane.

    Args:
        network: What is run.
        padded_czyx: Network input, each axis at least as long as the patch.
        windows: Of the padded input.
        inner: The part of it to yield.
        options: How many windows per forward pass, and which flips.
        on_window: Called after each forward pass.

    Yields:
        (K, A, B) float32 on the device of the sum: the network's, or the host where that has not
        enough memory. Planes lie along `windows.order[0]`, A and B along the others.

    Raises:
        VolumeError: The network gives NaN or infinite logits.
    """
    order = windows.order
    firsts = [*windows.starts[order[0]], windows.shape[order[0]]]
    boxes = list(windows.boxes())
    weight = _permuted(gaussian(windows.patch_size), order).to(network.device)
    finish = _Finish(network, windows, inner)
    slab: _Slab | None = None
    rows = pairwise(firsts)
    current, following = next(rows)
    for done in range(0, len(boxes), options.batch):
        group = boxes[done : done + options.batch]
        tiles = torch.stack([padded_czyx[(slice(None), *box)] for box in group])
        outputs = _run(network, tiles.to(network.device), options.mirror_axes, slab)
        if slab is None:
            slab = _Slab(outputs.shape[1], windows, network.device)
        for box, output_fdhw in zip(group, outputs, strict=True):
            if box[order[0]].start != current:
                yield from finish.planes(slab, current, following)
                current, following = next(rows)
            slab.add(box, _permuted(output_fdhw, order), weight)
        del outputs, output_fdhw  # before the next forward pass makes its own
        if on_window is not None:
            on_window(done + len(group), len(boxes))
    assert slab is not None, "every volume has a window"
    yield from finish.planes(slab, current, following)


def _run(
    network: Network, tiles_bcdhw: Tensor, mirror_axes: Sequence[int], slab: _Slab | None
) -> Tensor:
    """The outputs of some windows; the sum makes room if they do not fit beside it."""
    try:
        return _mirrored(network.body, tiles_bcdhw, mirror_axes)
    except torch.OutOfMemoryError:
        if slab is None or not slab.move_to_host():
            raise
    return _mirrored(network.body, tiles_bcdhw, mirror_axes)


def _mirrored(
    body: Callable[[Tensor], Tensor], tiles_bcdhw: Tensor, mirror_axes: Sequence[int]
) -> Tensor:
    """Mean float32 output over all flips of the given axes, each flipped back."""
    total = body(tiles_bcdhw).float()
    subsets = [c for n in range(1, len(mirror_axes) + 1) for c in combinations(mirror_axes, n)]
    for subset in subsets:
        dims = [axis + 2 for axis in subset]
        total = total + body(tiles_bcdhw.flip(dims)).float().flip(dims)
    return total / (len(subsets) + 1) if subsets else total


class _Slab:
    """Weighted sums of as many planes as a window is deep: plane p is kept at p modulo depth."""

    def __init__(self, channels: int, windows: Windows, device: torch.device | str) -> None:
        self._order = windows.order
        axis, *others = self._order
        self._depth = windows.patch_size[axis]
        shape = (channels, self._depth, *(windows.shape[other] for other in others))
        try:
            self._sum = torch.zeros(shape, device=device)
        except torch.OutOfMemoryError:
            _tell_host(device)
            self._sum = torch.zeros(shape)

    def add(self, box: Box, values_fsab: Tensor, weight_sab: Tensor) -> None:
        along, first, second = (box[axis] for axis in self._order)
        start = along.start % self._depth
        below = self._depth - start  # planes before the ring closes
        values, weight = values_fsab.to(self._sum.device), weight_sab.to(self._sum.device)
        for to, here in ((slice(start, None), slice(below)), (slice(start), slice(below, None))):
            self._sum[:, to, first, second].addcmul_(values[:, here], weight[here])

    def take(self, plane: int) -> Tensor:
        """Return a finished plane (F, A, B) and make its place free."""
        place = self._sum[:, plane % self._depth]
        finished = place.clone()
        place.zero_()
        return finished

    def move_to_host(self) -> bool:
        """Free the device's memory; False if none was in use."""
        if self._sum.is_cpu:
            return False
        _tell_host(self._sum.device)
        self._sum = self._sum.cpu()
        torch.cuda.empty_cache()
        return True


@dataclass(frozen=True)
class _Finish:
    """What a finished plane still goes through: division by its weights, the crop, the head."""

    network: Network
    windows: Windows
    inner: Box

    def planes(self, slab: _Slab, start: int, stop: int) -> Iterator[Tensor]:
        along, rows, columns = (self.inner[axis] for axis in self.windows.order)
        lines = self.windows.weight_lines()
        s, a, b = (lines[axis] for axis in self.windows.order)
        for plane in range(start, stop):
            mean_fab = slab.take(plane)
            if not along.start <= plane < along.stop:
                continue
            mean_fab /= (s[plane] * a[:, None] * b).float().to(mean_fab.device)
            logits_kab = self._logits(mean_fab[:, rows, columns])
            if not torch.isfinite(logits_kab.sum()):
                raise VolumeError(
                    "the network gives values that are not finite; look at the image's intensities"
                )
            yield logits_kab

    def _logits(self, mean_fab: Tensor) -> Tensor:
        if self.network.head is None:
            return mean_fab
        # In float32 whatever the windows ran in: what was averaged is more precise than they were.
        with torch.autocast(torch.device(self.network.device).type, enabled=False):
            features = mean_fab.to(self.network.device)[None, :, None]
            return self.network.head(features)[0, :, 0].to(mean_fab.device)


def _permuted(values: Tensor, order: Size3) -> Tensor:
    """The last three axes, z y x, in the order of visit."""
    leading = values.ndim - 3
    return values.permute(*range(leading), *(leading + axis for axis in order))


def _tell_host(device: torch.device | str) -> None:
    log.warning("the sum over windows does not fit beside the network on %s: kept on host", device)
