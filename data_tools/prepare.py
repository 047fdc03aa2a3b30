"""From raw scans to a store: measure every case, plan, then resample and write every case.

Runs in this process, on local worker processes or on a Dask cluster. Killed at any moment and
started again it continues where it was and ends with the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Literal

from data_tools.fingerprint import CaseMeasurement, Fingerprint, pool
from data_tools.plan import Plan, PlanConfig, check_config, describe, plan
from data_tools.prepare_case import measure_once, prepare_case
from data_tools.run_cases import Outcome, open_pool, run_cases
from data_tools.splits import assign_splits
from stunet import __version__
from stunet.errors import ConfigError, DataError
from stunet.io.atomic import fsync_folder
from stunet.io.manifest import DATASET, DatasetInfo, read_dataset
from stunet.io.store_writer import StoreWriter
from stunet.io.zarr_case import image_codec
from stunet.transforms.resample import target_shape
from stunet.types import RawDataset

MEASUREMENTS = "fingerprints"  # folder in the store, a small file per case
LISTED_FAILURES = 10
BYTES_PER_VOXEL = 16  # peak per voxel before and after resampling; 9 to 15 measured at 256^3

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PrepareConfig:
    """How to prepare a data set.

    Attributes:
        stage: Tells recipes of one stage from those of another.
        plan: What to plan with; every planned value can be set.
        holdout: Cases held out as `val` where the data set has no split of its own.
        workers: Local worker processes, one thread each; 0 runs in this process.
        scheduler: Address of a Dask scheduler to use instead of local workers.
        codec: `local` (fast to decode) or `network` (9% smaller, for object stores).
    """

    stage: Literal["prepare"] = "prepare"
    plan: PlanConfig = field(default_factory=PlanConfig)
    holdout: int = 4
    workers: int = 0
    scheduler: str | None = None
    codec: str = "local"


def prepare(
    raw: RawDataset,
    out: Path,
    config: PrepareConfig,
    on_progress: OnProgress = lambda done, total, case_id: None,
    on_plan: Callable[[str], None] = lambda text: None,
) -> Path:
    """Prepare a data set into the store at `out`.

    Args:
        raw: From `ingest`.
        out: Folder of the store; created, or continued if an earlier run was interrupted.
        config: Settings.
        on_progress: Called after each step as (steps done, steps in total, case id); every case
            takes two steps, one to measure and one to write.
        on_plan: Called once with a description of the plan.

    Returns:
        `out`, now a finished store.

    Raises:
        ConfigError: a setting is impossible.
        DataError: cases failed (all others were prepared, the store is not finished), or `out`
            holds a finished store that was prepared otherwise.
    """
    _check(config)
    out = Path(out)
    raw = assign_splits(raw, config.holdout)
    slim = replace(raw, cases=())  # what workers need of the data set, small to send
    with open_pool(config.workers, config.scheduler) as workers:
        run = partial(run_cases, pool=workers, on_done=_count_steps(raw, on_progress))
        measure = partial(measure_once, raw=slim, folder=out / MEASUREMENTS)
        measured = run(measure, raw.cases, at_once=None)
        fingerprint = _fingerprint(raw, measured)
        labels = _named_labels(raw, fingerprint)
        planned = plan(fingerprint, config.plan)
        on_plan(describe(planned, fingerprint))
        info = _dataset_info(replace(raw, labels=labels), fingerprint, planned, config.codec)
        _reopen(out, info)
        write = partial(
            prepare_case,
            raw=replace(slim, labels=labels),
            recipe=planned.preprocessing,
            writer=StoreWriter(out, replace(info, fingerprint={})),
        )
        known = {case.case_id for case in fingerprint.cases}
        readable = [case for case in raw.cases if case.case_id in known]
        written = run(write, readable, at_once=_at_once(config, fingerprint, planned))
    rows = [outcome.result for outcome in written if outcome.result is not None]
    if len(rows) < len(raw.cases):
        raise _failure_report([*measured, *written])
    StoreWriter(out, info).finish(rows)
    return out


def _check(config: PrepareConfig) -> None:
    """Refuse impossible settings before hours are spent on measuring."""
    if config.workers < 0:
        raise ConfigError(f"workers={config.workers}: give 0 (in this process) or more")
    check_config(config.plan)
    image_codec(config.codec)


def _count_steps(raw: RawDataset, on_progress: OnProgress) -> Callable[[str], None]:
    steps = itertools.count(1)
    return lambda case_id: on_progress(next(steps), 2 * len(raw.cases), case_id)


def _fingerprint(raw: RawDataset, measured: Sequence[Outcome[CaseMeasurement]]) -> Fingerprint:
    """Pool the cases that could be measured, at least one."""
    readable = [outcome.result for outcome in measured if outcome.result is not None]
    if not readable:
        raise _failure_report(measured)
    return pool(raw, readable)


def _named_labels(raw: RawDataset, fingerprint: Fingerprint) -> dict[str, int]:
    """The labels; if only the background has a name, the values that occur get one each."""
    if set(raw.labels.values()) != {0}:
        return raw.labels
    found = sorted({value for case in fingerprint.cases for value in case.labels} - {0})
    return {**raw.labels, **{f"label_{value}": value for value in found}}


def _dataset_info(
    raw: RawDataset, fingerprint: Fingerprint, planned: Plan, codec: str
) -> DatasetInfo:
    return DatasetInfo(
        name=raw.name,
        channels=planned.preprocessing.channels,
        spacing_mm=planned.preprocessing.spacing_mm,
        patch_size=planned.preprocessing.patch_size,
        strides=planned.strides,
        labels=raw.labels,
        ignore_label=raw.ignore_label,
        licence=raw.licence,
        fingerprint=asdict(fingerprint),
        versions={
            "stunet": __version__,
            **{name: version(name) for name in ("numpy", "scipy", "numba", "zarr", "numcodecs")},
        },
        codec=codec,
    )


def _reopen(out: Path, info: DatasetInfo) -> None:
    """Take the mark of a finished store away before its cases may change.

    Raises:
        DataError: the store was prepared otherwise; overwriting it would surprise its users.
    """
    if not (out / DATASET).is_file():
        return
    try:
        existing, _ = read_dataset(out)
    except DataError as error:
        raise DataError(f"{error}; or delete {out / DATASET} to prepare it again") from error
    if existing.preparation() != info.preparation():
        raise DataError(
            f"{out}: holds a finished store at {existing.spacing_mm} mm that was prepared with "
            f"other settings or labels (now {info.spacing_mm} mm); choose another folder"
        )
    (out / DATASET).unlink()
    fsync_folder(out)


def _at_once(config: PrepareConfig, fingerprint: Fingerprint, planned: Plan) -> int | None:
    """How many of the largest cases fit in this machine's memory; None where it does not matter."""
    if config.workers == 0 or config.scheduler is not None:
        return None
    import psutil
    from distributed.system import MEMORY_LIMIT  # knows the limits of containers

    spacing = planned.preprocessing.spacing_mm
    largest = max(
        prod(case.shape_zyx) + prod(target_shape(case.shape_zyx, case.spacing_mm, spacing))
        for case in fingerprint.cases
    )
    largest_bytes = largest * len(fingerprint.channel_names) * BYTES_PER_VOXEL
    available_bytes = min(MEMORY_LIMIT, psutil.virtual_memory().available)
    return max(1, available_bytes // largest_bytes)


def _failure_report(outcomes: Sequence[Outcome]) -> DataError:
    total = len({outcome.case_id for outcome in outcomes})
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    listed = [f"{outcome.case_id}: {outcome.failure}" for outcome in failed[:LISTED_FAILURES]]
    if len(failed) > LISTED_FAILURES:
        listed.append(f"and {len(failed) - LISTED_FAILURES} more")
    return DataError(
        f"{len(failed)} of {total} cases failed: {'; '.join(listed)}. All others are prepared: "
        "correct or remove these and run the same again"
    )
