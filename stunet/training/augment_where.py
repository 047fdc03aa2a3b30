"""Whether the loader's workers augment patches or the device does, and the trial that decides it.

What is done to a patch stands in `stunet.transforms.windows`; it is the same in both places.
"""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass
from itertools import count
from statistics import median

import torch

from stunet.data.loader import Source
from stunet.engine import distributed
from stunet.engine.deepspeed_engine import TrainEngine
from stunet.models.spec import STEP_OVER_FORWARD
from stunet.transforms.augment import AugmentDevice
from stunet.transforms.windows import augment, augment_on_device, with_noise

TRIAL_S = 1.0
TRIAL_PATCHES = 3  # at least; the first one warms up and does not count
WORTH_MOVING = 1.05  # a trial of a second is no finer


@dataclass(frozen=True)
class Costs:
    """Seconds per patch, of the slowest rank.

    Attributes:
        read: To read and normalise what it needs.
        worker: To augment it in a worker.
        device: To send and augment it on the device.
        step: To train on it.
    """

    read: float
    worker: float
    device: float
    step: float


def workers_are_faster(costs: Costs, workers: int) -> bool:
    """Whether workers should augment: they work beside the step, the device instead of it.

    >>> costs = Costs(read=0.010, worker=0.040, device=0.002, step=0.008)
    >>> workers_are_faster(costs, 2), workers_are_faster(costs, 8)
    (False, True)
    """
    if workers == 0:
        return costs.worker <= costs.device
    here = max((costs.read + costs.worker) / workers, costs.step)
    there = max(costs.read / workers, costs.step + costs.device)
    return here <= WORTH_MOVING * there


def workers_augment(
    where: AugmentDevice,
    engine: TrainEngine,
    source: Source,
    workers: int,
    image_shape: tuple[int, ...],
) -> bool:
    """Decide where a run augments; the same answer on every rank, and all must ask.

    Args:
        where: `auto` tries both for about a second, unless the device is a CPU: workers are faster
            there, for they use compiled loops and work beside the step.
        engine: The model on its device.
        source: Patches to try.
        workers: Loader processes of each rank.
        image_shape: (C, D, H, W) of a patch.
    """
    if where != "auto" or engine.device.type == "cpu":
        return where != "device"
    mine = Costs(*try_both(source, engine.device), _step_s(engine, image_shape))
    costs = Costs(*map(max, zip(*distributed.gather_numbers(astuple(mine)), strict=True)))
    here = workers_are_faster(costs, workers)
    if distributed.is_main():
        print(_sentence(costs, workers, here), flush=True)
    return here


def try_both(source: Source, device: torch.device) -> tuple[float, float, float]:
    """Median seconds to read a patch, to augment it here, and to augment it on the device.

    Ranks try different patches, for about a second.
    """
    rows: list[tuple[float, float, float]] = []
    began = time.perf_counter()
    for sample in count(distributed.rank(), distributed.world()):
        times = [time.perf_counter()]
        raw = source.raw(sample)
        times.append(time.perf_counter())
        augment(raw.window)
        times.append(time.perf_counter())
        ready = with_noise(raw.window)
        sent = _now(device)
        augment_on_device(ready, device)
        rows.append((times[1] - times[0], times[2] - times[1], _now(device) - sent))
        if len(rows) >= TRIAL_PATCHES and time.perf_counter() - began > TRIAL_S:
            break
    read, worker, on_device = (median(column) for column in zip(*rows[1:], strict=True))
    return read, worker, on_device


def _step_s(engine: TrainEngine, image_shape: tuple[int, ...]) -> float:
    """About what a patch takes to train on: from forward passes, which change nothing."""
    image = torch.zeros(1, *image_shape, device=engine.device)
    seconds = []
    with engine.evaluating():
        for _ in range(1 + TRIAL_PATCHES):  # the first compiles kernels and tries algorithms
            began = _now(engine.device)
            engine.forward(image)
            seconds.append(_now(engine.device) - began)
    return STEP_OVER_FORWARD * median(seconds[1:])


def _now(device: torch.device) -> float:
    """The time at which the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _sentence(costs: Costs, workers: int, here: bool) -> str:
    read, worker, device, step = (f"{1e3 * seconds:.1f} ms" for seconds in astuple(costs))
    place = "by the workers" if here else "on the device"
    return (
        f"augment.device=auto: patches are augmented {place}: one takes {read} to read and {worker}"
        f" to augment in each of {workers} workers, {device} on the device, and about {step} of"
        " training"
    )
