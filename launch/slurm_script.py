"""Renders batch scripts: a launch configuration and a recipe in, text to review out.

Submits nothing and writes nothing. The templates lie in `launch/templates`.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined
from jinja2.exceptions import TemplateError

from launch.command import typed_command
from launch.launch_config import LaunchConfig
from launch.stages import schema
from stunet.config import load_config
from stunet.errors import ConfigError
from stunet.io.remote import is_url

LAUNCH = "launch"  # below a run folder: scripts, logs, the recipe as submitted
RECIPE = "recipe.yaml"
TRAIN, STAGE = "train.sbatch.j2", "stage.sbatch.j2"


@dataclass(frozen=True)
class Task:
    """One job of an array: its run folder and what it changes in the recipe."""

    run: Path
    values: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """What a template sees as `job`, beside `config`.

    Attributes:
        name: The stage.
        run: The run folder, absolute.
        logs: Folder of the job's output.
        command: What the user typed.
        options: After `#SBATCH`.
        stunet: The command on one node.
        inner: The command where srun starts it on every node.
        srun: Further options of srun.
        arguments: Of the command.
        tasks: Of an array; empty: one job.
        copies: Source and destination of each store to stage.
    """

    name: str
    run: Path
    logs: Path
    command: str
    options: tuple[str, ...]
    stunet: tuple[str, ...]
    inner: tuple[str, ...]
    srun: tuple[str, ...]
    arguments: tuple[str, ...]
    tasks: tuple[Task, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()


def load_recipe(verb: str, recipe: str, values: Iterable[str]) -> Any:
    """A training recipe with absolute paths: a job may wait for hours and start elsewhere."""
    config = load_config(schema(verb), recipe, list(values))
    changed: dict[str, Any] = {"out": str(Path(config.out).absolute())}
    if config.store:
        changed["store"] = _absolute(config.store)
    if getattr(config, "init", "") and Path(config.init).exists():  # else `none`, or an address
        changed["init"] = _absolute(config.init)
    if config.mixture:
        changed["mixture"] = [replace(s, path=_absolute(s.path)) for s in config.mixture]
    return replace(config, **changed)


def training_script(config: LaunchConfig, verb: str, recipe: Any) -> str:
    """The script that trains.

    Args:
        config: Where and how.
        verb: `pretrain`, say.
        recipe: From `load_recipe`; the script reads it from `OUT/launch/recipe.yaml`.

    Raises:
        ConfigError: The values do not go together, or the user's template is faulty.
    """
    run = Path(recipe.out)
    copies, staged = _staged(config, recipe)
    tasks = _tasks(config, run)
    signalled = (
        "--requeue" if config.requeue else "--no-requeue",
        "--open-mode=append",
        f"--signal=B:USR1@{config.lead_s}",
        *([f"--array=0-{len(tasks) - 1}"] if tasks else []),
    )
    arguments = (verb, str(run / LAUNCH / RECIPE), *staged)
    job = replace(_job(config, verb, run, arguments), tasks=tasks, copies=copies)
    return _render(config.template or TRAIN, config, replace(job, options=job.options + signalled))


def stage_script(config: LaunchConfig, name: str, run: Path, arguments: Iterable[str]) -> str:
    """The script of a stage that runs `stunet ARGUMENTS` in one process."""
    return _render(STAGE, config, _job(config, name, run, tuple(arguments)))


def _render(template: str, config: LaunchConfig, job: Job) -> str:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("launch"), FileSystemLoader([Path.cwd(), "/"])]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = _quoted
    try:
        return environment.get_template(template).render(config=config, job=job)
    except TemplateError as error:
        raise ConfigError(f"template {template}: {type(error).__name__}: {error}") from None


def _quoted(value: object) -> str:
    """A word, or several, as a shell reads them back unchanged."""
    words = value if isinstance(value, list | tuple) else [value]
    return shlex.join(map(str, words))


def _job(config: LaunchConfig, name: str, run: Path, arguments: tuple[str, ...]) -> Job:
    logs = run / LAUNCH
    stunet, inner, srun = _commands(config)
    return Job(
        name=name,
        run=run,
        logs=logs,
        command=typed_command(),
        options=_options(config, f"{run.name}-{name}", logs),
        stunet=stunet,
        inner=inner,
        srun=srun,
        arguments=arguments,
    )


def _options(config: LaunchConfig, name: str, logs: Path) -> tuple[str, ...]:
    texts = ("partition", "account", "qos", "constraint", "reservation")
    given = [f"--{key}={getattr(config, key)}" for key in texts if getattr(config, key)]
    return (
        f"--job-name={_quoted(name)}",
        f"--output={_quoted(logs / '%j.log')}",
        f"--nodes={config.nodes}",
        "--ntasks-per-node=1",
        f"--time={config.time}",
        *([f"--cpus-per-task={config.cpus}"] if config.cpus else []),
        *([f"--gpus-per-node={config.gpus}"] if config.gpus else []),
        *([f"--mem={config.memory}"] if config.memory else []),
        *given,
        *(["--exclusive"] if config.exclusive else []),
        *config.options,
    )


def _commands(config: LaunchConfig) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The command on one node, the command below srun, and what srun must know."""
    # From SLURM 22.05 on srun no longer takes this over from sbatch.
    srun = (f"--cpus-per-task={config.cpus}",) if config.cpus else ()
    box = config.container
    module = ("-P", "-m", "launch.cli")
    if not box.image:
        here = (sys.executable, *module)
        return here, here, srun
    inside = (box.python, *module)
    if box.runtime == "apptainer":
        binds = (word for mount in box.mounts for word in ("--bind", mount))
        nvidia = ("--nv",) if config.gpus else ()
        command = ("apptainer", "exec", *nvidia, *binds, box.image, *inside)
        return command, command, srun
    image = (f"--container-image={box.image}",)
    mounts = (f"--container-mounts={','.join(box.mounts)}",) if box.mounts else ()
    one = ("srun", "--overlap", "--nodes=1", "--ntasks=1", *image, *mounts, *inside)
    return one, inside, (*srun, *image, *mounts)


def _tasks(config: LaunchConfig, run: Path) -> tuple[Task, ...]:
    """One per place in the lists of `config.array`."""
    tasks = []
    for values in zip(*config.array.values(), strict=True):
        pairs = list(zip(config.array, values, strict=True))
        name = "-".join(f"{k.rpartition('.')[2]}_{Path(str(v)).name}" for k, v in pairs)
        given = [f"{key}={_absolute(value) if key == 'store' else value}" for key, value in pairs]
        tasks.append(Task(run / name, (*given, f"out={run / name}")))
    if len({task.run for task in tasks}) < len(tasks):
        raise ConfigError(f"array={config.array}: two of its jobs would share a run folder")
    return tuple(tasks)


def _staged(
    config: LaunchConfig, recipe: Any
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """What to copy to each node's disk, and the values that then point there."""
    if not config.stage_to:
        return (), ()
    if "store" in config.array or "mixture" in config.array:
        raise ConfigError("stage_to with an array of stores: give one of them")
    copies = tuple((share.path, _local_copy(config, share.path)) for share in recipe.shares)
    if recipe.store:
        return copies, (f"store={copies[0][1]}",)
    shares = ", ".join(
        f"{{path: {copy}, weight: {share.weight}}}"
        for (_, copy), share in zip(copies, recipe.mixture, strict=True)
    )
    return copies, (f"mixture=[{shares}]",)


def _local_copy(config: LaunchConfig, store: str) -> str:
    """A name of its own for each store: two of them may be called the same."""
    digest = hashlib.sha256(store.encode()).hexdigest()[:8]
    return f"{config.stage_to.rstrip('/')}/{Path(store).name}-{digest}"


def _absolute(place: str) -> str:
    return place if is_url(place) else str(Path(place).absolute())
