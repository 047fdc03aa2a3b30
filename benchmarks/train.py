"""The loss and a training step: `python -m benchmarks.train --json FILE`.

With `--peers PYTHON` beside nnU-Net's loss and the official network in plain torch, else the loss
beside a one-hot target. Where both environments see a GPU, steps of STU-Net-B and -H run there.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

import numpy as np
import torch

from benchmarks.rows import OURS, Row, Session, main, row, take_turns
from benchmarks.worker import Worker

CLASSES = 105  # background included
NNUNET, PLAIN = "nnU-Net v2", "official network in nnU-Net v2"
ONE_HOT = "plain torch with a one-hot target"
SIDES = (64, 128)  # voxels
EVERY = 7  # gradients are compared at every seventh number, which is prime to all strides
PEAK, WALL, GPU = (attrgetter(name) for name in ("peak_mb", "wall_ms", "gpu_mb"))
UNFUSED, KEPT = "ours without the fused kernel", "ours, all feature maps kept"


def measure(session: Session) -> Iterator[Row]:
    """All rows of this file."""
    for side in SIDES:
        yield from _loss(session, side)
    yield from _switch(session, "S", side=64, device="cpu", peer=KEPT)
    if session.peers:
        yield from _step(session, "S", side=64, device="cpu")
    if torch.cuda.is_available():
        for peer in (UNFUSED, KEPT):
            yield from _switch(session, "B", side=128, device="cuda", peer=peer)
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


if __name__ == "__main__":
    main(measure)
