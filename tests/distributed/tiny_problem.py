"""A segmentation problem small enough for two processes on two cores: net, patches and loss.

16^3 patches keep the bottleneck at 8^3: torch's bf16 convolution on the CPU returns garbage weight
gradients at 2^3.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from stunet.types import Batch

SEED = 7
PATCH = 16
GLOBAL_BATCH = 4


class TinyNet(nn.Module):
    """One level down and up, 9 179 parameters, some tensors of odd size."""

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.enter = _block(1, 8, stride=1)
            self.down = _block(8, 16, stride=2)
            self.deep = _block(16, 8, stride=1)
            self.head = nn.Conv3d(16, 3, 1)
        self.register_buffer("version", torch.tensor([1, 2, 3]))

    def forward(self, image_bcdhw: torch.Tensor) -> torch.Tensor:
        skip = self.enter(image_bcdhw)
        deep = self.deep(self.down(skip))
        up = nn.functional.interpolate(deep, scale_factor=2.0, mode="nearest")
        return self.head(torch.cat([skip, up], dim=1))


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1),
        nn.InstanceNorm3d(outputs, affine=True),
        nn.LeakyReLU(inplace=True),
    )


def patch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch `index` as image (1, D, H, W) and label (D, H, W), a function of the index alone."""
    random = np.random.Generator(np.random.Philox(key=[SEED, index]))
    image = random.standard_normal((1, PATCH, PATCH, PATCH), dtype=np.float32)
    label = np.digitize(image[0], [-0.5, 0.8]).astype(np.int16)
    return torch.from_numpy(image), torch.from_numpy(label)


def make_batch(indices: list[int], broken: int | None = None) -> Batch:
    """A batch of patches; the image of patch `broken` holds a NaN."""
    images, labels = zip(*(patch(index) for index in indices), strict=True)
    image_bcdhw = torch.stack(images)
    if broken in indices:
        image_bcdhw[indices.index(broken), 0, 3, 3, 3] = torch.nan
    cases = tuple(f"s{index:04d}" for index in indices)
    return Batch(image_bcdhw, torch.stack(labels), tuple(indices), cases)


def rank_stream(
    rank: int, world: int, micro_batch: int, first_step: int = 0, broken: int | None = None
) -> Iterator[Batch]:
    """Micro-batches of one rank; step t holds patches t * B to t * B + B - 1, in order of rank."""
    per_rank = GLOBAL_BATCH // world
    step = first_step
    while True:
        first = step * GLOBAL_BATCH + rank * per_rank
        for start in range(first, first + per_rank, micro_batch):
            yield make_batch(list(range(start, start + micro_batch)), broken)
        step += 1


def loss_function(logits_bkdhw: torch.Tensor, label_bdhw: torch.Tensor) -> torch.Tensor:
    """Cross-entropy: a mean over samples, so that it does not matter how a batch is cut."""
    return nn.functional.cross_entropy(logits_bkdhw.float(), label_bdhw.long())
