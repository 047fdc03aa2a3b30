"""What is handed to SLURM, as far as it can be told without a cluster."""

import builtins
import sys
from typing import Any

import pytest
from distributed import LocalCluster

from data_tools.prepare import PrepareConfig
from data_tools.workers import SlurmConfig, check_job_memory, open_workers, slurm_cluster
from stunet.config import load_config
from stunet.errors import ConfigError

LAB = SlurmConfig(
    jobs=3, queue="long", account="lab", cores=4, memory="64GB", walltime="02:30:00", interface="lo"
)


def test_a_job_runs_one_process_of_one_thread_per_core() -> None:
    with slurm_cluster(LAB) as cluster:
        lines = cluster.job_script().splitlines()
    assert lines[0].startswith("#!")
    for line in ("-p long", "-A lab", "-n 1", "--cpus-per-task=4", "--mem=60G", "-t 02:30:00"):
        assert f"#SBATCH {line}" in lines
    assert "export OMP_NUM_THREADS=1" in lines
    (worker,) = [line for line in lines if "dask_worker" in line]
    assert worker.startswith(sys.executable)
    for option in ("--nworkers 4", "--nthreads 1", "--memory-limit 14.90GiB", "--interface lo"):
        assert option in worker


def test_cluster_defaults_are_left_to_the_cluster() -> None:
    with slurm_cluster(SlurmConfig(jobs=1, interface="lo")) as cluster:
        script = cluster.job_script()
    assert "#SBATCH -p" not in script
    assert "#SBATCH -A" not in script


def test_jobs_that_could_not_hold_the_largest_case_are_refused() -> None:
    check_job_memory(LAB, 16_000_000_000)
    with pytest.raises(ConfigError, match=r"memory=64GB for 4 cores is 16.0 GB .* takes 16.1 GB"):
        check_job_memory(LAB, 16_100_000_000)
    check_job_memory(SlurmConfig(memory="1MB"), 10**12)  # no jobs


def test_dask_jobqueue_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "dask_jobqueue":
            raise ImportError(name)
        return genuine(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        pytest.raises(ConfigError, match=r"slurm.jobs=3 needs dask-jobqueue; .*'stunet\[slurm\]'"),
        open_workers(0, None, LAB),
    ):
        pass


def test_no_workers_means_this_process() -> None:
    with open_workers(0, None, SlurmConfig()) as pool:
        assert pool is None


def test_a_running_scheduler_is_used() -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        open_workers(3, cluster.scheduler_address, SlurmConfig()) as pool,
    ):
        assert pool is not None
        assert pool.submit(sum, [1, 2, 3]).result(timeout=30) == 6
        assert len(pool.scheduler_info()["workers"]) == 1


def test_jobs_are_configured_on_the_command_line() -> None:
    config = load_config(PrepareConfig, None, ["slurm.jobs=3", "slurm.memory=64GB"])
    assert config.slurm == SlurmConfig(jobs=3, memory="64GB")
    assert load_config(PrepareConfig, None, []).slurm.jobs == 0
