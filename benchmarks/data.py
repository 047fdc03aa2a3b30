"""The way of the data, from preparation to batches: `python -m benchmarks.data --json FILE`.

With `--peers PYTHON` beside nnU-Net v2 and MONAI, else beside what our own dependencies offer. Not
here: scans larger than memory (`benchmarks.preparation`).
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.inputs import LABELS
from benchmarks.ours.data import write_store
from benchmarks.ours.labels import majority_disagreements
from benchmarks.ours.scale import write_manifest
from benchmarks.rows import OURS, Row, Session, main, row, take_turns, within
from benchmarks.volumes import many_labels, write_volumes

NNUNET, MONAI = "nnU-Net v2", "MONAI"
CASES = 2
PATCHES = 20  # per turn, where one takes tens of milliseconds
AUGMENTED = 8  # per turn, where one may take seconds
AUGMENTED_TURNS = 4  # per round: a third of the patches costs ten times as much as the others
CASES_OF_A_STORE = (100, 10_000, 1_000_000)
COARSE, FINE = (160, 160, 160), (200, 200, 200)


def measure(session: Session) -> Iterator[Row]:
    """All rows of this file."""
    source = write_volumes(session.folder / "volumes", CASES)
    for labels in (LABELS, 2):
        write_store(session.folder / "volumes", _store(session, labels), labels)
        if session.peers:
            volumes, folder = f"{session.folder}/volumes", _dataset(session, labels)
            session.peer(
                "nnunet_data:write_dataset", volumes=volumes, folder=folder, labels=labels
            )()
    yield from _reading(session, source)
    yield from _storage(session, source)
    if session.peers:
        yield from _loading(session)
        yield from _pipeline(session)
    else:
        yield from _augmentation(session)
    yield from _label_resampling(session)
    yield from _draws(session)
    yield from _manifests(session)


def _store(session: Session, labels: int) -> Path:
    return session.folder / f"store_{labels}"


def _dataset(session: Session, labels: int) -> str:
    return f"{session.folder}/nnunet_{labels}"


def _reading(session: Session, source: str) -> Iterator[Row]:
    zarr, same = "zarr-python", f"{NNUNET}, 128^3 only"
    ours, theirs = {"root": str(_store(session, LABELS))}, {"folder": _dataset(session, LABELS)}
    sides = {
        OURS: session.own("data:reading", patches=PATCHES, **ours),
        zarr: session.own("data:reading_with_zarr", patches=PATCHES, **ours),
    }
    if session.peers:
        read = "nnunet_data:reading"
        sides[NNUNET] = session.peer(read, patches=PATCHES, **theirs)
        sides[same] = session.peer(read, patches=PATCHES, window=[128] * 3, **theirs)
    turns = take_turns(sides, session.rounds)
    work = "random 128^3 patch read, warm"
    if session.peers:
        window = "x".join(map(str, turns[NNUNET][0].result))
        note = f"{source}; its loader reads {window} for 128^3"
        yield row(work, turns, NNUNET, 5, per=PATCHES, note=note)
        yield row(work, turns, same, per=PATCHES, note=source)
    yield row(work, turns, zarr, per=PATCHES, note=source)


def _storage(session: Session, source: str) -> Iterator[Row]:
    root, folder = _store(session, LABELS), _dataset(session, LABELS)
    work, size = "disk per 300^3 case, image and label", _folder_mb(root) / CASES
    yield within(work, size, 32, "MB", source)
    sides = {OURS: session.own("data:cold_reading", root=str(root), patches=PATCHES)}
    if session.peers:
        theirs = _folder_mb(Path(folder)) / CASES
        yield Row(work, size, theirs, NNUNET, "MB", theirs / size, None, "cpu", source)
        sides[NNUNET] = session.peer("nnunet_data:cold_reading", folder=folder, patches=PATCHES)
    turns = take_turns(sides, session.rounds)
    asked = median(turn.asked_mb for turn in turns[OURS]) / PATCHES
    yield within("bytes asked for per cold 128^3 patch", asked, 6, "MB", source)
    from_disk = all(turn.disk_mb for side in turns.values() for turn in side)
    if session.peers and from_disk:  # on a memory file system nothing is
        work, disk = "bytes from disk per cold 128^3 patch", attrgetter("disk_mb")
        yield row(work, turns, NNUNET, of=disk, per=PATCHES, unit="MB", note="with read-ahead")


def _folder_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _loading(session: Session) -> Iterator[Row]:
    both = {"patches": PATCHES, "augment": False}
    folder = _dataset(session, LABELS)
    sides = {
        OURS: session.own("data:loading", root=str(_store(session, LABELS)), **both),
        NNUNET: session.peer("nnunet_data:loading", folder=folder, labels=LABELS, **both),
    }
    turns = take_turns(sides, session.rounds)
    yield row(f"loader without augmentation, per patch, {LABELS} labels", turns, NNUNET, 8,
              per=PATCHES)  # fmt: skip


def _pipeline(session: Session) -> Iterator[Row]:
    both = {"patches": AUGMENTED, "augment": True}
    kept, volumes = f"{MONAI}, indices cached too", f"{session.folder}/volumes"
    for labels, goal in ((LABELS, 15), (2, 4)):
        folder = _dataset(session, labels)
        sides = {
            OURS: session.own("data:loading", root=str(_store(session, labels)), **both),
            NNUNET: session.peer("nnunet_data:loading", folder=folder, labels=labels, **both),
        }
        if labels == LABELS:
            for name, keep in ((MONAI, False), (kept, True)):
                sides[name] = session.peer(
                    "monai_data:loading", volumes=volumes, patches=AUGMENTED, keep_indices=keep
                )
        turns = take_turns(sides, AUGMENTED_TURNS * session.rounds)
        work = f"whole CPU pipeline with default augmentation, per patch, {labels} labels"
        yield row(work, turns, NNUNET, goal, per=AUGMENTED)
        if labels == LABELS:
            note = "CacheDataset, 4 crops a visit; labels by nearest neighbour"
            yield row(work, turns, MONAI, 3, per=AUGMENTED, note=note)
            yield row(work, turns, kept, per=AUGMENTED, note=note)


def _augmentation(session: Session) -> Iterator[Row]:
    """What default augmentation adds to a plain patch, on average over patches."""
    both, plain = {"root": str(_store(session, LABELS)), "patches": AUGMENTED}, "no augmentation"
    sides = {
        OURS: session.own("data:loading", augment=True, **both),
        plain: session.own("data:loading", augment=False, **both),
    }
    turns = take_turns(sides, AUGMENTED_TURNS * session.rounds)
    yield row("whole CPU pipeline with default augmentation, per patch", turns, plain,
              per=AUGMENTED)  # fmt: skip


def _label_resampling(session: Session) -> Iterator[Row]:
    source = many_labels(COARSE)
    np.save(session.folder / "coarse.npy", source)
    both = {"label": f"{session.folder}/coarse.npy", "shape": FINE}
    mine, other = session.folder / "fine_ours.npy", session.folder / "fine_theirs.npy"
    sides = {OURS: session.own("labels:resampling", out=str(mine), **both)}
    if session.peers:
        peer = NNUNET
        sides[peer] = session.peer("nnunet_labels:resampling", out=str(other), **both)
    else:
        peer = "a linear zoom per label"
        sides[peer] = session.own("labels:one_by_one", out=str(other), **both)
    turns = take_turns(sides, session.rounds)
    note = majority_disagreements(source, np.load(mine), np.load(other))
    yield row("label map 160^3 to 200^3, 105 labels", turns, peer, 200, note=note)


def _draws(session: Session) -> Iterator[Row]:
    """All random numbers of a patch: the case by a permutation that is never listed."""
    patches, fewest = 1000, f"{CASES_OF_A_STORE[0]} cases"
    draws = {
        cases: session.own("scale:drawing", root=str(_store(session, LABELS)),
                           manifest=_manifest(session, cases), patches=patches)
        for cases in CASES_OF_A_STORE
    }  # fmt: skip
    for cases in CASES_OF_A_STORE[1:]:
        sides = {OURS: draws[cases], fewest: draws[CASES_OF_A_STORE[0]]}
        turns = take_turns(sides, session.rounds)
        work = f"all draws of a patch out of {cases} cases, their manifest rows read from disk"
        yield row(work, turns, fewest, per=patches)


def _manifests(session: Session) -> Iterator[Row]:
    opened = {
        cases: session.own("scale:opening", manifest=_manifest(session, cases))()
        for cases in CASES_OF_A_STORE
    }
    fewest = opened[CASES_OF_A_STORE[0]].cpu_ms / CASES_OF_A_STORE[0]
    for cases in CASES_OF_A_STORE[1:]:
        each, note = opened[cases].cpu_ms / cases, f"{opened[cases].peak_mb:.0f} MB in all"
        yield Row(f"opening a manifest of {cases} cases, per case", each, fewest,
                  f"{CASES_OF_A_STORE[0]} cases", "CPU ms", fewest / each, None, "cpu",
                  note)  # fmt: skip


def _manifest(session: Session, cases: int) -> str:
    """A folder with a manifest of so many rows of our store, written once."""
    folder = session.folder / f"manifest_{cases}"
    if not folder.exists():
        write_manifest(_store(session, LABELS), folder, cases)
    return str(folder)


if __name__ == "__main__":
    main(measure)
