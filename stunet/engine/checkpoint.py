"""Saving and continuing a run, at any ZeRO stage and on any number of ranks.

Rank 0 alone touches the disk; the others take part in gathering and scattering. What lies on the
disk is described in `checkpoint_files.py`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stunet.engine import checkpoint_files as files
from stunet.engine import distributed
from stunet.engine.state import TrainState
from stunet.errors import CheckpointError

if TYPE_CHECKING:
    from stunet.engine.deepspeed_engine import TrainEngine

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Saves a run while its steps go on: rank 0 writes in a thread what it copied to host memory.

    A context manager; leaving it lets rank 0 finish what it is writing.

    Args:
        root: The `checkpoints` folder of the run.
        keep: How many checkpoints stay, the newest included.
    """

    def __init__(self, root: Path, keep: int) -> None:
        self._root = root
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, engine: TrainEngine, state: TrainState) -> None:
        """Copy weights and optimiser state to the host and begin to write them.

        All ranks must call it. Steps wait for the copy, and for the checkpoint before this one if
        that is still being written: rank 0 needs host memory for one copy, never for two.

        Raises:
            CheckpointError: On every rank, when the checkpoint before could not be written.
        """
        self.wait()
        tensors = {
            files.WEIGHTS: engine.gather_weights(),
            files.OPTIMIZER: engine.gather_optimizer(),
        }
        if engine.averages:
            tensors[files.AVERAGE] = engine.gather_average()
        if distributed.is_main():
            self._writing = self._thread.submit(
                files.write, self._root, state.step, tensors, state.to_json(), self._keep
            )

    @property
    def failed(self) -> bool:
        """Whether this rank knows of a checkpoint that could not be written; never waits."""
        done = self._writing is not None and self._writing.done()
        return done and self._writing.exception() is not None  # type: ignore[union-attr]

    def wait(self) -> str:
        """Wait until the last checkpoint is safely on disk and return its path.

        All ranks must call it. An empty string if none was saved.

        Raises:
            CheckpointError: On every rank, when it could not be written.
        """
        return distributed.run_on_main(self._result)

    def _result(self) -> str:
        writing, self._writing = self._writing, None
        return "" if writing is None else str(writing.result())

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.shutdown()
        if self.failed:  # on the way out with another error, which must not be hidden
            assert self._writing is not None
            log.error("%s", self._writing.exception())


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
    folder, values = json.loads(found)
    state, checkpoint = TrainState(**values), Path(folder)
    engine.load_weights(partial(files.read_tensor, checkpoint / files.WEIGHTS))
    engine.load_optimizer(partial(files.read_tensor, checkpoint / files.OPTIMIZER), state.step)
    if engine.averages:
        engine.load_average(partial(files.read_tensor, checkpoint / files.AVERAGE))
    return dataclasses.replace(
        state, config_hash=fresh.config_hash, world=fresh.world, zero_stage=fresh.zero_stage
    )


def _choose(engine: TrainEngine, root: Path, fresh: TrainState) -> str:
    """On rank 0: the checkpoint to load and its state as JSON, or an empty string."""
    checkpoint, problems = files.newest_whole(root)
    for problem in problems:
        log.warning("passing over a damaged checkpoint: %s", problem)
    if checkpoint is None:
        return ""
    _check_fit(checkpoint, files.WEIGHTS, engine.weight_shapes())
    _check_fit(checkpoint, files.OPTIMIZER, engine.optimizer_shapes())
    if engine.averages:
        _check_fit(checkpoint, files.AVERAGE, engine.weight_shapes())
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
    if not (checkpoint / name).exists():
        raise CheckpointError(
            f"checkpoint {checkpoint}: has no {name}; use the settings that it was trained with"
        )
    found = files.tensor_shapes(checkpoint / name)
    for key in sorted(wanted.keys() | found.keys()):
        here, there = wanted.get(key, "none"), found.get(key, "none")
        if here != there:
            raise CheckpointError(
                f"checkpoint {checkpoint}: {key} has shape {there}, this run wants {here}; "
                "use the model and optimiser that it was trained with"
            )
