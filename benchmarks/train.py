"""The loss, augmentation and a training step: `python -m benchmarks.train --json FILE`.

With `--peers PYTHON` beside nnU-Net's loss and the official network in plain torch, else the loss
beside a one-hot target. Where both environments see a GPU, steps of STU-Net-B and -H run there.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.inputs import LABELS
from benchmarks.ours.data import write_store
from benchmarks.rows import OURS, Row, Session, main, row, take_turns
from benchmarks.volumes import write_volumes
from benchmarks.worker import Worker
from stunet.engine.hardware import peak_flops
from stunet.models.spec import ISOTROPIC_STRIDES, STEP_OVER_FORWARD, ModelConfig
from stunet.registry import model_spec

CLASSES = 105  # background included
NNUNET, PLAIN = "nnU-Net v2", "official network in nnU-Net v2"
ONE_HOT = "plain torch with a one-hot target"
SIDES = (64, 128)  # voxels
EVERY = 7  # gradients are compared at every seventh number, which is prime to all strides
PEAK, WALL, GPU = (attrgetter(name) for name in ("peak_mb", "wall_ms", "gpu_mb"))
WORKER, FEW = "ours, a worker's loops", "ours, 2 labels"
PATCHES = 20  # of which some 7 are turned or scaled
UNFUSED, KEPT = "ours without the fused kernel", "ours, all feature maps kept"
AS_IS = "ours as it is"
MFU_GOAL, WAITING = 45.0, 3.0  # percent
CASES, STEPS, LOADERS = 2, 50, 4


def measure(session: Session) -> Iterator[Row]:
    """All rows of this file."""
    for side in SIDES:
        yield from _loss(session, side)
    yield from _augmentation(session, "cpu")
    yield from _switch(session, "S", side=64, device="cpu", peer=KEPT)
    if session.peers:
        yield from _step(session, "S", side=64, device="cpu")
    if torch.cuda.is_available():
        yield from _augmentation(session, "cuda")
        for peer in (UNFUSED, KEPT):
            yield from _switch(session, "B", side=128, device="cuda", peer=peer)
        for trial in ("compiled", "channels last"):
            yield from _trial(session, trial, "B", side=128)
        yield from _fed(session, "B", side=128)
        if session.peers:
            yield from _loss_on_gpu(session, side=128)
            for size in ("B", "H"):
                yield from _step(session, size, side=128, device="cuda")


def _loss(session: Session, side: int) -> Iterator[Row]:
    both = {"classes": CLASSES, "side": side}
    sides = {OURS: session.own("loss:gradient", **both)}
    if session.peers:
        peer = NNUNET
        sides[peer] = session.peer("nnunet_loss:gradient", **both)
        note = f"gradients differ by {_difference(session, side):.1g} of the largest"
    else:
        peer, note = ONE_HOT, ""
        sides[peer] = session.own("loss:one_hot_gradient", **both)
    turns = take_turns(sides, session.rounds)
    work = f"Dice + CE, forward and backward, {CLASSES} classes, {side}^3"
    yield row(work, turns, peer, 3, note=note)
    yield row(f"{work}: peak extra memory", turns, peer, 4, of=PEAK, unit="MB")


def _difference(session: Session, side: int) -> float:
    """The largest difference of the gradients, as a fraction of the largest gradient."""
    files = [str(session.folder / f"gradient_{who}.npy") for who in ("ours", "theirs")]
    both = {"classes": CLASSES, "side": side}
    session.own("loss:gradient", out=files[0], **both)()
    session.peer("nnunet_loss:gradient", out=files[1], **both)()
    mine, theirs = (np.load(file, mmap_mode="r").reshape(-1)[::EVERY] for file in files)
    return float(abs(mine - theirs).max() / abs(theirs).max())


def _augmentation(session: Session, device: str) -> Iterator[Row]:
    """The device's operations beside a worker's loops, and with many labels beside few.

    On a CPU the first says only why workers do it there.
    """
    many, few = {"patches": PATCHES, "classes": LABELS}, {"patches": PATCHES, "classes": 2}
    sides = {
        OURS: session.own("augment:augmenting", place=device, **many),
        WORKER: session.own("augment:augmenting", place="worker", **many),
        FEW: session.own("augment:augmenting", place=device, **few),
    }
    turns = take_turns(sides, session.rounds)
    kind: dict[str, Any] = {}
    if device == "cuda":
        kind = {"of": WALL, "unit": "ms", "where": torch.cuda.get_device_name()}
    work = f"augmentation by the device's operations, per 128^3 patch, {LABELS} labels"
    yield row(work, turns, WORKER, per=PATCHES, **kind)
    yield row(work, turns, FEW, per=PATCHES, **kind)


def _loss_on_gpu(session: Session, side: int) -> Iterator[Row]:
    both = {"classes": CLASSES, "side": side, "device": "cuda"}
    sides = {OURS: session.own("loss:gradient", **both)}
    sides[NNUNET] = session.peer("nnunet_loss:gradient", **both)
    turns = take_turns(sides, session.rounds)
    work, name = f"Dice + CE on a GPU, {CLASSES} classes, {side}^3", torch.cuda.get_device_name()
    yield row(work, turns, NNUNET, 3, of=WALL, unit="ms", where=name)
    yield row(f"{work}: peak memory, logits included", turns, NNUNET, of=GPU, unit="MB", where=name)


def _switch(session: Session, size: str, side: int, device: str, peer: str) -> Iterator[Row]:
    """What one of the options of `SpeedConfig` gains, and the other way round costs."""
    both = {"size": size, "classes": CLASSES, "side": side, "batch": 2, "device": device}
    off: dict[str, object] = {"fused_norm": False} if peer == UNFUSED else {"recompute": "none"}
    on: dict[str, object] = {} if peer == UNFUSED else {"recompute": "block"}
    with Worker() as ours, Worker() as others:
        sides = {
            OURS: ours.open("ours.step:training_step", **both, **on),
            peer: others.open("ours.step:training_step", **both, **off),
        }
        turns = take_turns(sides, session.rounds)
    option = "fused normalisation" if peer == UNFUSED else "blocks recomputed"
    work = f"training step, STU-Net-{size}, {side}^3, batch 2, {option}"
    if device == "cpu":
        yield row(work, turns, peer)
        yield row(f"{work}: peak extra memory", turns, peer, of=PEAK, unit="MB")
        return
    name = torch.cuda.get_device_name()
    yield row(work, turns, peer, of=WALL, unit="ms", where=name)
    yield row(f"{work}: peak memory", turns, peer, of=GPU, unit="MB", where=name)


def _trial(session: Session, trial: str, size: str, side: int) -> Iterator[Row]:
    """What did not pay on a CPU (docs/log.md), on a GPU; `fused_norm` beside it, as by default."""
    both = {"size": size, "classes": CLASSES, "side": side, "batch": 2, "device": "cuda"}
    with Worker() as ours, Worker() as others:
        sides = {
            OURS: ours.open("ours.step:training_step", **both, trial=trial),
            AS_IS: others.open("ours.step:training_step", **both),
        }
        turns = take_turns(sides, session.rounds)
    work, name = f"training step, STU-Net-{size}, {side}^3, {trial}", torch.cuda.get_device_name()
    yield row(work, turns, AS_IS, of=WALL, unit="ms", where=name)
    yield row(f"{work}: peak memory", turns, AS_IS, of=GPU, unit="MB", where=name)


def _step(session: Session, size: str, side: int, device: str) -> Iterator[Row]:
    """Workers of its own: a model on a GPU goes when its process ends."""
    both = {"size": size, "classes": CLASSES, "side": side, "batch": 2, "device": device}
    assert session.peers is not None
    with Worker() as ours, Worker(session.peers.python) as peers:
        sides = {
            OURS: ours.open("ours.step:training_step", **both),
            PLAIN: peers.open("peers.official_stunet:training_step", **both),
        }
        turns = take_turns(sides, session.rounds)
    work = f"training step, STU-Net-{size}, {side}^3, batch 2, {CLASSES} classes"
    if device == "cpu":
        yield row(work, turns, PLAIN)
        yield row(f"{work}: peak extra memory", turns, PLAIN, of=PEAK, unit="MB")
        return
    name = torch.cuda.get_device_name()
    yield row(work, turns, PLAIN, 1.5, of=WALL, unit="ms", where=name)
    yield row(f"{work}: peak memory", turns, PLAIN, 2, of=GPU, unit="MB", where=name)
    peak = peak_flops(name)
    if peak is None:  # its data sheet is not in the table
        return
    network = ModelConfig(size=size, in_channels=1, classes=CLASSES, strides=ISOTROPIC_STRIDES)
    flops = STEP_OVER_FORWARD * 2 * model_spec("stunet").forward_flops(network, (side, side, side))
    step_s = median(turn.wall_ms for turn in turns[OURS]) / 1e3
    mfu, goal = 100 * flops / step_s / peak, 1.0 if size == "H" else None
    yield Row(f"{work}: share of the peak FLOP/s (MFU)", mfu, MFU_GOAL, "goal", "%", mfu / MFU_GOAL,
              goal, name, f"{2 / step_s:.2f} patches/s")  # fmt: skip


def _fed(session: Session, size: str, side: int) -> Iterator[Row]:
    """How long steps wait for patches of the loader, default augmentation included."""
    write_volumes(session.folder / "volumes", CASES)
    write_store(session.folder / "volumes", session.folder / "store", LABELS)
    options = {"root": str(session.folder / "store"), "size": size, "side": side, "steps": STEPS,
               "workers": LOADERS, "device": "cuda"}  # fmt: skip
    with Worker() as ours:
        fed = ours.open("ours.step:fed_training", **options)
        waiting = 100 * median(fed().result for _ in range(session.rounds))
    work = f"training STU-Net-{size} at {side}^3 from a store, {LOADERS} workers: time without data"
    yield Row(work, waiting, WAITING, "limit", "%", WAITING / max(waiting, 0.01), 1.0,
              torch.cuda.get_device_name())  # fmt: skip


if __name__ == "__main__":
    main(measure)
