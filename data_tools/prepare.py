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
from pathlib import Path
from typing import Literal

from data_tools.case_memory import available_bytes, measuring_bytes, writing_bytes
from data_tools.fingerprint import CaseMeasurement, Fingerprint, pool
from data_tools.plan import Plan, PlanConfig, check_config, describe, plan
from data_tools.prepare_case import measure_once, prepare_case
from data_tools.prepare_target import disk_errors, open_target, reopen
from data_tools.run_cases import Admission, Outcome, run_cases
from data_tools.splits import assign_splits
from data_tools.workers import SlurmConfig, check_job_memory, open_workers
from stunet import __version__
from stunet.errors import ConfigError, DataError
from stunet.io.manifest import DatasetInfo
from stunet.io.store_writer import StoreWriter
from stunet.io.zarr_case import image_codec
from stunet.transforms.resample import target_shape
from stunet.types import RawCase, RawDataset

MEASUREMENTS = "fingerprints"  # folder in the store, a small file per case
LISTED_FAILURES = 10

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
        slurm: Jobs to submit for the work instead; see `SlurmConfig`.
        codec: `local` (fast to decode) or `network` (9% smaller, for object stores).
        fold: Fold of nnU-Net's `splits_final.json`, where there is one; `all` trains on all cases.
    """

    stage: Literal["prepare"] = "prepare"
    plan: PlanConfig = field(default_factory=PlanConfig)
    holdout: int = 4
    workers: int = 0
    scheduler: str | None = None
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    codec: str = "local"
    fold: str = "0"


def prepare(
    raw: RawDataset,
    out: Path,
    config: PrepareConfig,
    on_progress: OnProgress = lambda done, total, case_id: None,
    on_plan: Callable[[str], None] = lambda text: None,
    source: Plan | None = None,
) -> Path:
    """Prepare a data set into the store at `out`.

    Args:
        raw: From `ingest`.
        out: Folder of the store; created, or continued if an earlier run was interrupted.
        config: Settings.
        on_progress: Called after each step as (steps done, steps in total, case id); every case
            takes two steps, one to measure and one to write.
        on_plan: Called once with a description of the plan.
        source: A plan to keep; see `plan`.

    Returns:
        `out`, now a finished store.

    Raises:
        ConfigError: a setting is impossible.
        DataError: cases failed (all others were prepared, the store is not finished), `out` cannot
            be written, or it holds a finished store that was prepared otherwise.
    """
    _check(config)
    out = Path(out)
    raw = assign_splits(raw, config.holdout)
    existing = open_target(out)
    slim = replace(raw, cases=())  # what workers need of the data set, small to send
    with open_workers(config.workers, config.scheduler, config.slurm) as workers:
        run = partial(run_cases, pool=workers, on_done=_count_steps(raw, on_progress))
        measure = partial(measure_once, raw=slim, folder=out / MEASUREMENTS)
        measured = run(measure, raw.cases, admission=_admission(config, measuring_bytes))
        fingerprint = _fingerprint(raw, measured)
        labels = _named_labels(raw, fingerprint)
        planned = plan(fingerprint, config.plan, source)
        on_plan(describe(planned, fingerprint))
        need_bytes = _writing_bytes(fingerprint, planned)
        check_job_memory(config.slurm, max(need_bytes.values()))
        info = _dataset_info(replace(raw, labels=labels), fingerprint, planned, config.codec)
        reopen(out, existing, info)
        write = partial(
            prepare_case,
            raw=replace(slim, labels=labels),
            recipe=planned.preprocessing,
            writer=StoreWriter(out, replace(info, fingerprint={})),
        )
        readable = [case for case in raw.cases if case.case_id in need_bytes]
        admission = _admission(config, lambda case: need_bytes[case.case_id])
        written = run(write, readable, admission=admission)
    rows = [outcome.result for outcome in written if outcome.result is not None]
    if len(rows) < len(raw.cases):
        raise _failure_report([*measured, *written])
    with disk_errors(out):
        StoreWriter(out, info).finish(rows)
    return out


def _check(config: PrepareConfig) -> None:
    """Refuse impossible settings before hours are spent on measuring."""
    if config.workers < 0:
        raise ConfigError(f"workers={config.workers}: give 0 (in this process) or more")
    if config.scheduler is not None and config.slurm.jobs > 0:
        raise ConfigError(
            f"scheduler={config.scheduler} and slurm.jobs={config.slurm.jobs}: choose one of them"
        )
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
        regions=raw.regions,
        regions_class_order=raw.regions_class_order,
    )


def _writing_bytes(fingerprint: Fingerprint, planned: Plan) -> dict[str, int]:
    """Memory that each case takes while it is resampled and written."""
    spacing, channels = planned.preprocessing.spacing_mm, len(fingerprint.channel_names)
    return {
        case.case_id: writing_bytes(
            case.shape_zyx, target_shape(case.shape_zyx, case.spacing_mm, spacing), channels
        )
        for case in fingerprint.cases
    }


def _admission(config: PrepareConfig, need_bytes: Callable[[RawCase], int]) -> Admission | None:
    """Bounds the memory of local workers; others have limits of their own."""
    if config.workers == 0 or config.scheduler is not None or config.slurm.jobs > 0:
        return None
    return Admission(config.workers, available_bytes(), need_bytes)


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
