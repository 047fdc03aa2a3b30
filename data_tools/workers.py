"""Dask workers for the cases of a data set: on this machine, behind a scheduler, or by SLURM."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stunet.errors import ConfigError

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster
    from distributed import Client


@dataclass(frozen=True)
class SlurmConfig:
    """Worker jobs of a SLURM cluster; every core of a job prepares one case at a time.

    Attributes:
        jobs: Jobs to submit; preparation begins with the first that starts. 0: no SLURM.
        queue: Partition; None takes the cluster's default.
        account: Whom to charge; None takes the user's default.
        cores: Cores of a job.
        memory: Memory of a job, e.g. `64GB`: cores times what the largest case takes.
        walltime: Longest time a job may run, `HH:MM:SS`. Cases a job leaves are taken by others.
        interface: Network interface that workers and this process share, e.g. `ib0`.
    """

    jobs: int = 0
    queue: str | None = None
    account: str | None = None
    cores: int = 8
    memory: str = "32GB"
    walltime: str = "04:00:00"
    interface: str | None = None


@contextmanager
def open_workers(
    workers: int, scheduler: str | None, slurm: SlurmConfig
) -> Iterator[Client | None]:
    """Dask workers for the duration of a block; None means that cases run in this process.

    Args:
        workers: Local worker processes of one thread each; 0 for none.
        scheduler: Address of a running scheduler, e.g. `tcp://node7:8786`, used instead.
        slurm: Jobs that are used instead, if any.
    """
    if scheduler is None and workers == 0 and slurm.jobs == 0:
        yield None
        return
    from distributed import Client, LocalCluster  # 0.5 s that inline runs never need

    if scheduler is not None:
        with Client(scheduler) as client:
            yield client
        return
    if slurm.jobs > 0:
        with slurm_cluster(slurm) as cluster, Client(cluster) as client:
            cluster.scale(jobs=slurm.jobs)
            yield client
        return
    local = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,  # the caller limits how many cases run at once; see `run_cases`
        dashboard_address=None,
        silence_logs=logging.ERROR,
    )
    with local, Client(local) as client:
        yield client


def slurm_cluster(config: SlurmConfig) -> SLURMCluster:
    """A cluster without jobs yet; `job_script()` of it is what each job runs.

    Raises:
        ConfigError: dask-jobqueue is not installed.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ConfigError(
            f"slurm.jobs={config.jobs} needs dask-jobqueue; run pip install 'stunet[slurm]'"
        ) from error
    return SLURMCluster(
        queue=config.queue,
        account=config.account,
        cores=config.cores,
        processes=config.cores,  # a process and a thread per case
        memory=config.memory,
        walltime=config.walltime,
        interface=config.interface,
        job_script_prologue=["export OMP_NUM_THREADS=1"],
        scheduler_options={"dashboard_address": None},
    )


def check_job_memory(config: SlurmConfig, need_bytes: int) -> None:
    """Refuse jobs in which the largest case would be killed for its memory.

    Raises:
        ConfigError: A core's share of a job's memory is less than `need_bytes`.
    """
    if config.jobs == 0:
        return
    from dask.utils import parse_bytes

    share_bytes = parse_bytes(config.memory) / config.cores
    if need_bytes > share_bytes:
        raise ConfigError(
            f"slurm.memory={config.memory} for {config.cores} cores is"
            f" {share_bytes / 1e9:.1f} GB per case, the largest takes {need_bytes / 1e9:.1f} GB;"
            " give more memory or fewer cores"
        )
