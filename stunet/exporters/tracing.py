"""Recording a network as a graph, for formats that hold graphs.

What a network checks of its input cannot be recorded; it becomes the duty of the reader, who finds
the divisor of the sizes in the exported description.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor

from stunet.bundle import Bundle
from stunet.errors import BundleError
from stunet.types import Size3


def divisor(bundle: Bundle) -> Size3:
    """What each side of an input must be divisible by, z y x."""
    z, y, x = (prod(step[axis] for step in bundle.model.strides) for axis in range(3))
    return z, y, x


def example(bundle: Bundle, sides: int = 2, batch: int = 1) -> Tensor:
    """(B, C, D, H, W) noise with `sides` times the smallest sides: small, yet not degenerate."""
    shape = (side * sides for side in divisor(bundle))
    generator = torch.Generator().manual_seed(0)
    return torch.randn((batch, bundle.model.in_channels, *shape), generator=generator)


def check_free(out: object, taken: bool) -> None:
    """Raise where the place of an export is taken."""
    if taken:
        raise BundleError(f"export {out}: is already there; remove it or name another place")


@contextmanager
def expected_warnings_silenced() -> Iterator[None]:
    """Without what the recorder says of input checks, and of itself being the older one of two.

    The newer one needs a further package for ONNX and records no input of any size.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
