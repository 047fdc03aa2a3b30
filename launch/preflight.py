"""Preflight: what would fail hours later, told before a run is started or queued.

Each check stands alone and looks at the real thing: files, sockets, limits. Not here: whether the
training will be any good.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

from launch.gpus import Gpu, list_gpus
from launch.launch_config import LaunchConfig
from launch.preflight_check import THIS_MACHINE, Check, Surroundings, WorldPlan
from launch.preflight_data import (
    check_batch,
    check_continues,
    check_labels,
    check_network,
    open_checked,
)
from launch.preflight_folder import check_run_folder
from launch.preflight_machine import (
    check_cores,
    check_gpus,
    check_limits,
    check_memory,
    check_shared_memory,
)
from launch.preflight_memory import bytes_per_rank, checkpoint_bytes, queued_batch_bytes
from launch.preflight_network import check_port, check_tracker
from launch.stages import schema
from stunet.config import load_config
from stunet.errors import ConfigError
from stunet.training.recipe import TrainingConfig

MARKS = {True: " ", False: "!", None: "-"}
RED, PLAIN = "\x1b[31m", "\x1b[0m"
NAME_WIDTH = 14


def preflight(
    config: TrainingConfig, plan: WorldPlan, here: Surroundings = THIS_MACHINE
) -> tuple[Check, ...]:
    """Check all that a run needs; takes seconds, starts nothing and leaves nothing behind.

    Args:
        config: The run.
        plan: The processes that would be started.
        here: Where facts of this machine come from.
    """
    batch = check_batch(config, plan)
    checks, data = open_checked(config)
    needed = queued = checkpoint = None
    if data is not None:
        network_check, task = check_network(config, data)
        data = task.data if task is not None else data
        checks += [check_labels(config, data), check_continues(config, data), network_check]
        if task is not None:
            network = task.network
            patch = config.patch_for(data.info)
            needed = bytes_per_rank(config, network, patch, plan)
            queued = queued_batch_bytes(config, network.in_channels, patch, plan.processes)
            checkpoint = checkpoint_bytes(config, network)
    return (
        batch,
        *checks,
        check_memory(plan, needed, here),
        *check_run_folder(config, checkpoint, here),
        check_cores(config, plan, here),
        check_shared_memory(plan, queued, here),
        *check_limits(plan),
        check_gpus(plan),
        check_port(plan),
        check_tracker(config.loop.tracking),
    )


def plan_for(launch: LaunchConfig, local: bool) -> WorldPlan:
    """The processes of a launch; on this machine its driver tells what GPUs there are."""
    gpus = _gpus_here() if local else ()
    name = gpus[0].name if gpus else "a GPU" if launch.gpus else None
    memory = gpus[0].memory_bytes if gpus else None
    if launch.gpu_gb is not None and launch.gpus:
        memory = round(launch.gpu_gb * 2**30)
    processes = launch.processes or launch.gpus or len(gpus) or launch.per_node
    return WorldPlan(launch.nodes, processes, memory, name, local)


def require(
    verb: str, recipe: str, values: Sequence[str], launch: LaunchConfig, local: bool
) -> None:
    """Run preflight before a start or a submission; say nothing if all is well.

    Args:
        verb: The training to start.
        recipe: Its recipe.
        values: `key=value` for it.
        launch: Nodes, GPUs and processes.
        local: Whether the ranks run on this machine.

    Raises:
        ConfigError: A check failed; the table stands on stderr.
    """
    checks = preflight(load_config(schema(verb), recipe, values), plan_for(launch, local))
    failed = [check.name for check in checks if check.ok is False]
    if failed:
        print(render(checks, sys.stderr.isatty()), file=sys.stderr, flush=True)
        raise ConfigError(
            f"preflight: {len(failed)} of {len(checks)} checks failed ({', '.join(failed)});"
            " mend them as the table says, or start with --no-preflight"
        )


def _gpus_here() -> tuple[Gpu, ...]:
    try:
        return list_gpus()
    except OSError:  # told by the check of the GPUs
        return ()


def render(checks: Sequence[Check], colour: bool = False) -> str:
    """One table: '!' and red for what failed, '-' for what does not apply or is not known.

    Args:
        checks: In the order to show.
        colour: For a terminal.
    """
    width = max(60, min(110, shutil.get_terminal_size().columns))
    indent = " " * (NAME_WIDTH + 3)
    lines = []
    for check in checks:
        head = f"{MARKS[check.ok]} {check.name:<{NAME_WIDTH}} "
        text = textwrap.wrap(
            check.found,
            width,
            initial_indent=head,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        if check.advice:
            text += textwrap.wrap(
                f"-> {check.advice}",
                width,
                initial_indent=indent,
                subsequent_indent=indent + "   ",
                break_on_hyphens=False,
            )
        red = colour and check.ok is False
        lines += [f"{RED}{line}{PLAIN}" if red else line for line in text]
    return "\n".join(lines)
