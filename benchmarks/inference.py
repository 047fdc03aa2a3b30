"""Labels on the scan's grid, and their scores: `python -m benchmarks.inference --json FILE`.

With `--peers PYTHON` beside nnU-Net v2 and MONAI, else the limits only.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
from scipy import ndimage

from benchmarks.inputs import random_logits
from benchmarks.rows import OURS, Row, Session, main, row, take_turns, within
from benchmarks.volumes import many_labels
from benchmarks.worker import Worker
from stunet.types import Size3

NNUNET, MONAI = "nnU-Net v2", "MONAI"
CLASSES = 105  # background included
COARSE, FINE = (96, 96, 96), (160, 160, 160)
SCAN, SCAN_FINE, PATCH = (200, 239, 239), (300, 512, 512), (128, 128, 128)
FLOAT_BYTES = 4
WIDTH = {"S": 16, "B": 32}  # features before the last layer
SCORED: Size3 = (192, 192, 192)
SPACING_MM, TOLERANCE_MM = (1.5, 1.5, 1.5), 3.0
CERTAINTY, NOISE = 10.0, 0.5  # of made-up logits: the lead of a class, and what disturbs it


def measure(session: Session) -> Iterator[Row]:
    """All rows of this file."""
    if session.peers:
        yield from _export(session)
    yield from _whole_scan(session)
    if session.peers:
        yield from _surfaces(session)


def _export(session: Session) -> Iterator[Row]:
    for kind, logits in (
        ("as a network gives", _network_logits()),
        ("pure noise", random_logits(CLASSES, COARSE)),
    ):
        file = session.folder / "logits.npy"
        np.save(file, logits)
        mine, other = session.folder / "ours.npy", session.folder / "theirs.npy"
        both = {"logits": str(file), "shape": FINE}
        sides = {
            OURS: session.own("export:export", out=str(mine), **both),
            NNUNET: session.peer("nnunet_export:export", out=str(other), **both),
        }
        turns = take_turns(sides, session.rounds)
        equal = float((np.load(mine) == np.load(other)).mean())
        work = f"export of {CLASSES} classes, 96^3 to 160^3, logits {kind}"
        yield row(work, turns, NNUNET, 25, note=f"{equal:.4%} of voxels equal")


def _network_logits() -> np.ndarray:
    """Logits that lead by `CERTAINTY` inside structures and cross over at their borders."""
    label = many_labels(COARSE)
    logits = NOISE * random_logits(CLASSES, COARSE)
    for value in range(CLASSES):
        mask = (label == value).astype(np.float32)
        logits[value] += CERTAINTY * ndimage.gaussian_filter(mask, 1)
    return logits


def _whole_scan(session: Session) -> Iterator[Row]:
    """Memory of the sweep and the export, without what the network itself takes for a window."""
    for size, features in WIDTH.items():
        with Worker() as fresh:
            turn = fresh.open(
                "ours.export:whole_scan", shape=SCAN, shape_to=SCAN_FINE, patch=PATCH,
                features=features, classes=CLASSES,
            )()  # fmt: skip
        window_mb = features * prod(PATCH) * FLOAT_BYTES / 1e6
        work = f"sweep and export of {CLASSES} classes, 200x239x239 to 300x512x512, STU-Net-{size}"
        note = f"{turn.peak_mb:.0f} MB with a window's features of {window_mb:.0f} MB"
        yield within(f"{work}: peak memory", turn.peak_mb - window_mb, 1000, "MB", note)


def _surfaces(session: Session) -> Iterator[Row]:
    reference = many_labels(SCORED)
    files = {name: str(session.folder / f"{name}.npy") for name in ("reference", "prediction")}
    np.save(files["reference"], reference)
    np.save(files["prediction"], np.roll(reference, (2, -2, 1), (0, 1, 2)))
    both = {"classes": CLASSES - 1, "spacing_mm": SPACING_MM, "tolerance_mm": TOLERANCE_MM, **files}
    sides = {
        OURS: session.own("surface:scores", **both),
        MONAI: session.peer("monai_surface:scores", **both),
    }
    turns = take_turns(sides, session.rounds)
    mine, theirs = (np.array(turns[side][0].result) for side in (OURS, MONAI))
    away = np.nanmax(abs(mine - theirs), axis=0)
    note = f"NSD differs by up to {away[0]:.2g}, HD95 by {away[1]:.2g} mm (another definition)"
    yield row("NSD and HD95 of 104 classes at 192^3", turns, MONAI, 20, note=note)


if __name__ == "__main__":
    main(measure)
