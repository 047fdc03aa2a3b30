"""What DeepSpeed and torch say that is true, known and no news to a user.

Imported before DeepSpeed, whose import already logs. Nothing is hidden that is not listed here.
"""

from __future__ import annotations

import logging
import warnings

LOG_NOISE = (
    "Setting accelerator to CPU",  # said at import, true, and no news to who has no GPU
    "ZeRO with an untested optimizer",  # torch SGD; tests/distributed compares it with plain torch
    "OVERFLOW! Skipping step",  # `stunet.engine.loop` says it with the samples
)
WARNING_NOISE: tuple[tuple[str, type[Warning]], ...] = (
    (r"`torch\.jit\.script_method` is deprecated", DeprecationWarning),  # importing torch._inductor
    (r"`torch\.distributed\.all_gather_into_tensor` is deprecated", FutureWarning),
    (r"`torch\.distributed\.reduce_scatter_tensor` is deprecated", FutureWarning),
)


def filter_log() -> None:
    """Keep `LOG_NOISE` out of DeepSpeed's log."""
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: not any(noise in record.getMessage() for noise in LOG_NOISE)
    )


def filter_warnings() -> None:
    """Ignore `WARNING_NOISE` in this process."""
    for message, category in WARNING_NOISE:
        warnings.filterwarnings("ignore", message=message, category=category)
