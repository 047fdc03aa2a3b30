"""Saving and continuing a run, at any ZeRO stage and on any number of ranks.

Rank 0 alone touches the disk; the others take part in gathering and scattering. What lies on the
disk is described in `checkpoint_files.py`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stunet.engine import checkpoint_files as files
from stunet.engine import distributed
from stunet.engine.state import TrainState
from stunet.errors import CheckpointError

if TYPE_CHECKING:
    from stunet.engine.deepspeed_engine import TrainEngine

log = logging.getLogger(__name__)


def save(engine: TrainEngine, state: TrainState, root: Path, keep: int) -> Path:
    """Write the checkpoint of `state.step`; all ranks call it, all return its path.

    Weights and optimiser state pass through rank 0's host memory one after the other, so it needs
    as much as the larger of the two.

    Args:
        engine: Holds weights and optimiser state.
        state: Saved beside them.
        root: The `checkpoints` folder of the run.
        keep: How many checkpoints stay, this one included.

    Raises:
        CheckpointError: On every rank, when rank 0 cannot write.
    """
    temporary = Path(distributed.run_on_main(lambda: str(files.begin(root, state.step))))
    _write(temporary / files.WEIGHTS, engine.gather_weights())
    _write(temporary / files.OPTIMIZER, engine.gather_optimizer())
    values = state.to_json()
    return Path(distributed.run_on_main(lambda: str(files.finish(temporary, values, keep))))


def restore(engine: TrainEngine, root: Path, fresh: TrainState) -> TrainState:
    """Continue from the newest whole checkpoint, or start with `fresh` where there is none.

    A damaged checkpoint is passed over with a warning. Other ranks, ZeRO stage or configuration
    than before are said, too.

    Args:
        engine: Its weights, optimiser state and step are set.
        root: The `checkpoints` folder of the run.
        fresh: The state of a run that starts now.

    Raises:
        CheckpointError: On every rank: all checkpoints are damaged, the newest does not fit the
            model or optimiser, or was trained with another seed.
    """
    found = distributed.run_on_main(lambda: _choose(engine, root, fresh))
    if not found:
        return fresh
    checkpoint, values = json.loads(found)
    state = TrainState(**values)
    engine.load_weights(partial(files.read_tensor, Path(checkpoint) / files.WEIGHTS))
    engine.load_optimizer(
        partial(files.read_tensor, Path(checkpoint) / files.OPTIMIZER), state.step
    )
    return dataclasses.replace(
        state, config_hash=fresh.config_hash, world=fresh.world, zero_stage=fresh.zero_stage
    )


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    def write() -> str:
        files.write_tensors(path, tensors)
        return ""

    distributed.run_on_main(write)


def _choose(engine: TrainEngine, root: Path, fresh: TrainState) -> str:
    """On rank 0: the checkpoint to load and its state as JSON, or an empty string."""
    checkpoint, problems = files.newest_whole(root)
    for problem in problems:
        log.warning("passing over a damaged checkpoint: %s", problem)
    if checkpoint is None:
        return ""
    _check_fit(checkpoint, files.WEIGHTS, engine.weight_shapes())
    _check_fit(checkpoint, files.OPTIMIZER, engine.optimizer_shapes())
    values = files.read_state(checkpoint)
    state = TrainState(**values)
    if state.seed != fresh.seed:
        raise CheckpointError(
            f"checkpoint {checkpoint}: trained with seed {state.seed}, not {fresh.seed}; "
            f"set seed={state.seed} or use another run folder"
        )
    for what, before, now in (
        ("configuration", state.config_hash, fresh.config_hash),
        ("number of ranks", state.world, fresh.world),
        ("ZeRO stage", state.zero_stage, fresh.zero_stage),
    ):
        if before != now:
            log.warning("%s changed from %s to %s: not bit-identical", what, before, now)
    log.info("continuing from %s", checkpoint)
    return json.dumps([str(checkpoint), values])


def _check_fit(checkpoint: Path, name: str, wanted: dict[str, tuple[int, ...]]) -> None:
    found = files.tensor_shapes(checkpoint / name)
    for key in sorted(wanted.keys() | found.keys()):
        here, there = wanted.get(key, "none"), found.get(key, "none")
        if here != there:
            raise CheckpointError(
                f"checkpoint {checkpoint}: {key} has shape {there}, this run wants {here}; "
                "use the model and optimiser that it was trained with"
            )
