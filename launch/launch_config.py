"""Where and how a verb is started: nodes, processes and what a batch system wants to know.

`launch local` and `launch slurm` share it. On the command line its keys stand among those of the
recipe (`nodes=2 optim.lr=1e-3`); `on=` names a file of them, such as `on=launch/a100`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from stunet.config import load_config
from stunet.errors import ConfigError

ON = "on"


@dataclass(frozen=True)
class ContainerConfig:
    """An image that holds stunet; without one the job uses the Python that submitted it.

    Attributes:
        image: File or URL, as the runtime names it; empty: no container.
        runtime: `apptainer`, or `enroot` by the pyxis plugin of srun.
        mounts: `HOST:INSIDE` folders; the run folder and the data must be among what is visible.
        python: The interpreter inside.
    """

    image: str = ""
    runtime: Literal["apptainer", "enroot"] = "apptainer"
    mounts: tuple[str, ...] = ()
    python: str = "python3"


@dataclass(frozen=True)
class LaunchConfig:
    """The resources of a job and what happens when they are taken away.

    Attributes:
        stage: Tells these files from recipes.
        nodes: Machines.
        gpus: Per node; 0: train on the CPU.
        gpu_gb: Memory of a GPU in units of 2^30 bytes, for preflight; None: not known.
        processes: Per node; None: one for each GPU, two without.
        cpus: Cores per node; None: what the cluster gives.
        memory: Per node, e.g. `200G`; empty: what the cluster gives.
        time: Time limit as SLURM writes it; a requeued job gets it anew.
        partition: And the next four: passed on as they are; empty: the cluster's default.
        account: Who pays.
        qos: Quality of service.
        constraint: Features that a node must have.
        reservation: A reservation's name.
        exclusive: Take whole nodes.
        options: Further sbatch options, e.g. `--mail-type=FAIL`.
        modules: Environment modules to load.
        environment: Shell lines run first, e.g. `export NCCL_DEBUG=INFO`.
        container: An image to run in.
        template: A Jinja2 file in place of `launch/templates/train.sbatch.j2`.
        stage_to: Folder on each node's own disk that the store is copied to first; empty: none.
        lead_s: So many seconds before the time limit the run is asked to save. A step and a save
            must fit in; SLURM may ask up to 60 s earlier.
        requeue: Whether the job may be put back into the queue.
        max_failures: So many crashes in a row without a new checkpoint end it; preemptions do not
            count.
        array: Key of the recipe to a list of values, one job for each: `array={seed: [0, 1, 2]}`.
            Lists of several keys go side by side. Each job has a run folder below `out`.
    """

    stage: Literal["launch"] = "launch"
    nodes: int = 1
    gpus: int = 0
    gpu_gb: float | None = None
    processes: int | None = None
    cpus: int | None = None
    memory: str = ""
    time: str = "24:00:00"
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    exclusive: bool = False
    options: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    container: ContainerConfig = field(default_factory=ContainerConfig)
    template: str = ""
    stage_to: str = ""
    lead_s: int = 300
    requeue: bool = True
    max_failures: int = 3
    array: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("gpus", 0), ("max_failures", 1), ("lead_s", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least {least}")
        if self.processes is not None and self.processes < 1:
            raise ConfigError(f"processes={self.processes}: must be at least 1")
        lengths = {len(v) if isinstance(v, list | tuple) else 0 for v in self.array.values()}
        if self.array and (len(lengths) != 1 or 0 in lengths):
            raise ConfigError(
                f"array={self.array}: give a list of values for each key, all of the same length"
            )

    @property
    def per_node(self) -> int:
        """Processes on each node."""
        return self.processes or self.gpus or 2


OWN_KEYS = frozenset(entry.name for entry in fields(LaunchConfig)) - {"stage"}


def split_values(values: Sequence[str]) -> tuple[LaunchConfig, list[str]]:
    """Sort `key=value` into the launch configuration and what is left for the recipe.

    Raises:
        ConfigError: A launch value is wrong, or the file that `on=` names.
    """
    on, own, rest = None, [], []
    for value in values:
        key = value.partition("=")[0]
        if key == ON:
            on = value.partition("=")[2]
        elif key.partition(".")[0] in OWN_KEYS:
            own.append(value)
        else:
            rest.append(value)
    return load_config(LaunchConfig, on, own), rest
