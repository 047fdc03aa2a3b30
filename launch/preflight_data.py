"""Preflight of the data and what is derived from them: stores, label space, batch and patch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from launch.preflight_check import Check, WorldPlan, refused
from launch.stages import task
from stunet.engine.parallel import accumulation_steps
from stunet.errors import DataError, StunetError
from stunet.io.manifest import DATASET, check_files
from stunet.io.remote import is_url
from stunet.io.shards import INDEX, RUN_AGAIN
from stunet.io.store import Store
from stunet.io.tar_set import TarSet
from stunet.models.spec import stage_shapes
from stunet.registry import model_spec
from stunet.training.data import TrainingData, open_data
from stunet.training.recipe import TrainingConfig
from stunet.training.run_folder import CONFIG, check_same_run
from stunet.training.task import Task

NAMES_SHOWN = 3


def check_batch(config: TrainingConfig, plan: WorldPlan) -> Check:
    """Whether the global batch can be shared out."""
    micro = config.parallel.micro_batch
    try:
        steps = accumulation_steps(config.global_batch, micro, plan.world)
    except StunetError as error:
        return refused("batch", error)
    found = f"{config.global_batch} = {plan.world} ranks x {micro} patches x {steps} accumulated"
    return Check("batch", True, found)


def open_checked(config: TrainingConfig) -> tuple[list[Check], TrainingData | None]:
    """Open all data sets as training does, and see whether their files are there and whole."""
    try:
        data = open_data(config)
    except StunetError as error:
        return [refused("data", error)], None
    except OSError as error:
        return [Check("data", False, str(error), "mend the rights of that file or folder")], None
    train = sum(len(chosen.train) for chosen in data.cases)
    val = sum(len(chosen.val) for chosen in data.cases)
    names = ", ".join(part.info.name for part in data.parts)
    found = f"{names}: {train} cases to train on, {val} to validate on"
    idle = config.loop.validate_every and not val
    advice = "there will be no Dice: prepare the store with a holdout" if idle else ""
    checks = [Check("data", None if idle else True, found, advice)]
    return [*checks, _check_files(data.parts)], data


def check_labels(config: TrainingConfig, data: TrainingData) -> Check:
    """Whether the labels fit the outputs, and those of a run that is to be continued."""
    run = Path(config.out)
    structures = len(data.info.labels) - 1
    before = _labels_of(run)
    if before is not None and before != data.info.labels:
        return Check(
            "labels",
            False,
            f"the data have {structures} structures, the run in {run} was started with"
            f" {len(before) - 1}{_first_differences(before, data.info.labels)}",
            "name another out=..., or the data that the run was started with",
        )
    outputs = max(data.info.outputs.values()) + 1
    return Check("labels", True, f"{structures} structures in {outputs} outputs of the network")


def check_continues(config: TrainingConfig, data: TrainingData) -> Check:
    """Whether the run in the folder, if any, is the same up to logistics."""
    run = Path(config.out)
    try:
        check_same_run(run, config, data.info, data.content)
    except StunetError as error:
        return refused("run", error)
    return Check("run", True, f"continues {run}" if (run / CONFIG).exists() else "a new one")


def check_network(config: TrainingConfig, data: TrainingData) -> tuple[Check, Task | None]:
    """Whether the network can be built and takes the patch; and the task if so."""
    try:
        found = task(config, data)
        network = found.network
        patch = config.patch_for(found.data.info)
        parameters = model_spec(network.name).parameter_count(network)
        coarsest = stage_shapes(patch, network.strides)[-1]
    except StunetError as error:
        return refused("network", error), None
    told = (
        f"{network.name} {network.size}, {parameters / 1e6:.1f} M parameters; patch"
        f" {_by(patch)}, {_by(coarsest)} at the coarsest stage"
    )
    return Check("network", True, told), found


def _check_files(parts: Sequence[Store | TarSet]) -> Check:
    """Sizes of all files on local disks; contents are for `stunet data verify`."""
    problems: list[str] = []
    files = 0
    remote = [part for part in parts if is_url(str(part.root))]
    for part in parts:
        if part not in remote:
            tell = _missing_tars if isinstance(part, TarSet) else _damaged_cases
            found, seen = tell(part)
            problems, files = problems + found, files + seen
    if problems:
        more = len(problems) - 1
        error = DataError(problems[0])
        check = refused("data files", error)
        others = f" (and {more} more)" if more else ""
        return Check(check.name, False, check.found + others, check.advice)
    if remote:
        return Check(
            "data files", None, f"{files} local files are whole; remote ones not looked at"
        )
    return Check("data files", True, f"{files} files, all of the recorded size")


def _damaged_cases(store: Store | TarSet) -> tuple[list[str], int]:
    """What is wrong with the cases of a local store, one message each, and how many files."""
    problems = []
    for row in store.rows:
        try:
            check_files(Path(str(store.root)), row)
        except DataError as error:
            problems.append(str(error))
    return problems, sum(len(row.files) for row in store.rows)


def _missing_tars(tars: Store | TarSet) -> tuple[list[str], int]:
    root = Path(str(tars.root))
    records = json.loads((root / INDEX).read_bytes())["tars"]
    problems = []
    for name, record in records.items():
        file = root / name
        size = file.stat().st_size if file.is_file() else 0
        if size != record["bytes"]:
            problems.append(f"{file} has {size} bytes, not {record['bytes']}; {RUN_AGAIN}")
    return problems, len(records)


def _labels_of(run: Path) -> dict[str, int] | None:
    """The label space of the run in a folder, None if there is none."""
    file = run / DATASET
    if not file.is_file():
        return None
    try:
        labels: dict[str, int] = json.loads(file.read_bytes())["labels"]
    except (ValueError, KeyError, TypeError):
        return None  # told by `check_continues`
    return labels


def _first_differences(before: dict[str, int], now: dict[str, int]) -> str:
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return f" (differs in {', '.join(differ[:NAMES_SHOWN])})"


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
