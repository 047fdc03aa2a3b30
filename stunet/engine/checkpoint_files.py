"""Checkpoints on disk: how they are laid out, written, checked and found again.

`checkpoints/step_000100/` holds `weights.safetensors`, `optimizer.safetensors` and, where weights
are averaged, `ema.safetensors` (fp32, one tensor per weight, whatever engine and sharding wrote
them), `state.json`, `manifest.json` (size and sha256 of each) and, once all of it is safely on
disk, `COMPLETE`. `checkpoints/LATEST` names the newest for people and scripts; what is loaded is
decided by the folders themselves.

Knows nothing of ranks or engines: `checkpoint.py` does.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from stunet.errors import CheckpointError
from stunet.io.atomic import atomic_write_json, atomic_write_text, publish_folder

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
AVERAGE = "ema.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
COMPLETE = "COMPLETE"
LATEST = "LATEST"
FORMAT_VERSION = 1

_STEP_FOLDER = re.compile(r"step_(\d+)")


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"step_{step:06d}"


def write(
    root: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of a step and return its path.

    At every moment of this function, and after a power cut at any of them, the newest complete
    checkpoint is whole. Removed at the end: all but the `keep` newest, and checkpoints of a later
    step, which belong to a future that was rolled back.

    Args:
        root: The `checkpoints` folder of the run.
        step: Optimiser steps taken.
        tensors: File name to named tensors in host memory.
        state: JSON values.
        keep: How many checkpoints stay, this one included.

    Raises:
        CheckpointError: The file system refuses, for example because it is full. What was written
            of the checkpoint is removed again.
    """
    final = step_folder(root, step)
    temporary = final.with_suffix(".tmp")
    with _nothing_left_behind(temporary, final):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, values in tensors.items():
            save_file(dict(values), temporary / name)
        atomic_write_json(temporary / STATE, dict(state))
        files = {name: _fingerprint(temporary / name) for name in (*tensors, STATE)}
        atomic_write_json(temporary / MANIFEST, {"format": FORMAT_VERSION, "files": files})
        if final.exists():  # damaged or rolled back, else the run would not be at this step again
            _remove(final)
        publish_folder(temporary, final)
        atomic_write_text(final / COMPLETE, "")
        atomic_write_text(root / LATEST, f"{final.name}\n")
        _prune(root, final, keep)
    return final


def complete_checkpoints(root: Path) -> list[Path]:
    """All checkpoints that were sealed, newest first."""
    found = {step: path for path in root.glob("step_*") if (step := _step_of(path)) is not None}
    newest_first = [found[step] for step in sorted(found, reverse=True)]
    return [path for path in newest_first if (path / COMPLETE).exists()]


def verify(checkpoint: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: A file is missing, shorter or longer than it was, or has other content.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_bytes())
        files = {name: (file["bytes"], file["sha256"]) for name, file in manifest["files"].items()}
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"checkpoint {checkpoint}: {MANIFEST} cannot be read ({error!r}); use an earlier one"
        ) from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {checkpoint}: format {version}, this version reads {FORMAT_VERSION}; "
            "use the version that wrote it"
        )
    for name, (size, digest) in files.items():
        path = checkpoint / name
        found = path.stat().st_size if path.exists() else 0
        if found != size:
            raise CheckpointError(
                f"checkpoint {checkpoint}: {name} has {found} bytes instead of {size}; "
                "use an earlier one"
            )
        if _sha256(path) != digest:
            raise CheckpointError(
                f"checkpoint {checkpoint}: {name} has changed since it was written (sha256); "
                "use an earlier one"
            )


def newest_whole(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that passes `verify`, and one message per newer one that does not.

    Raises:
        CheckpointError: There are checkpoints, and none of them is whole: starting anew in silence
            would hide the loss.
    """
    problems: list[str] = []
    candidates = complete_checkpoints(root)
    for checkpoint in candidates:
        try:
            verify(checkpoint)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return checkpoint, problems
    if candidates:
        raise CheckpointError(
            f"{root}: all {len(candidates)} checkpoints are damaged ({problems[0]}); "
            "restore the folder, or delete it to start anew"
        )
    return None, problems


def load_weights(checkpoint: Path, name: str = WEIGHTS) -> dict[str, torch.Tensor]:
    """The fp32 weights and buffers of one checkpoint, verified, on the host.

    Needs neither the engine nor the number of ranks that wrote them.

    Args:
        checkpoint: Its folder.
        name: `WEIGHTS`, or `AVERAGE` for their moving average.

    Raises:
        CheckpointError: The checkpoint is incomplete or damaged, or has no average.
    """
    if not (checkpoint / COMPLETE).exists():
        raise CheckpointError(f"checkpoint {checkpoint}: no {COMPLETE} file; use an earlier one")
    verify(checkpoint)
    if not (checkpoint / name).exists():
        raise CheckpointError(
            f"checkpoint {checkpoint}: has no {name}; it was trained without optim.ema_decay"
        )
    return load_file(checkpoint / name)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The plain values of `state.json`."""
    return dict(json.loads((checkpoint / STATE).read_text()))


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a safetensors file; reads its header only."""
    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_tensor(path: Path, name: str) -> torch.Tensor:
    """One tensor of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


@contextmanager
def _nothing_left_behind(temporary: Path, final: Path) -> Iterator[None]:
    """Give back the space of a checkpoint that cannot be finished, and say so in one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (final / COMPLETE).exists():
            shutil.rmtree(final, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {final}: cannot be written ({error}); the one before it is whole: "
            "free space and run the same command again"
        ) from error


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step_of(path: Path) -> int | None:
    match = _STEP_FOLDER.fullmatch(path.name)
    return int(match[1]) if match else None


def _prune(root: Path, newest: Path, keep: int) -> None:
    kept = complete_checkpoints(root)
    kept = kept[kept.index(newest) :][:keep]
    for path in root.glob("step_*"):
        if path not in kept:
            _remove(path)


def _remove(folder: Path) -> None:
    """Delete a checkpoint such that it is never seen complete and partly gone."""
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder)
