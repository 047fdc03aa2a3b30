"""Preflight of the machine: cores and memory as its control groups allow, limits, GPUs."""

from __future__ import annotations

import os
import resource
import shutil

from launch.gpus import GpuSoftware, gpu_software, list_gpus
from launch.preflight_check import Check, Surroundings, WorldPlan, elsewhere, gibibytes
from stunet.engine.cgroups import available_memory, cpu_limit
from stunet.training.recipe import TrainingConfig

CROWDED = 4  # processes per core: beyond, each waits for the others most of its time
GPU_SHARE = 0.95  # of its memory: the rest is taken by CUDA contexts and NCCL
OFF_BY = 0.15  # what the estimate may be too high by, see docs/estimate.md
OPEN_FILES = 1024  # Linux's usual limit; shards, pipes of workers and sockets stay below it


def check_cores(config: TrainingConfig, plan: WorldPlan, here: Surroundings) -> Check:
    """Ranks and their loader workers against the cores that they may use."""
    if not plan.local:
        return elsewhere("cores")
    cores = float(len(os.sched_getaffinity(0)))
    limit = cpu_limit(here.root)
    allowed = cores if limit is None else min(cores, limit)
    workers = config.loader.workers
    busy = plan.processes * (1 + workers)
    found = (
        f"{plan.processes} ranks with {workers} workers each on {allowed:g} cores"
        f"{' (limit of the control group)' if allowed < cores else ''}"
    )
    advice = "lower loader.workers or the number of processes, or ask for more cores"
    if busy > CROWDED * allowed:
        return Check("cores", False, found, advice)
    return Check("cores", True, found) if busy <= allowed else Check("cores", None, found, advice)


def check_memory(plan: WorldPlan, needed: int | None, here: Surroundings) -> Check:
    """What the ranks are estimated to take against the GPU's memory or, without, the machine's.

    Args:
        plan: The ranks.
        needed: Bytes per rank; None: not known.
        here: Where the control groups are read.
    """
    if needed is None:
        return Check("memory", None, "not known without the data's plan, or for this network")
    if plan.on_gpus:
        return _check_gpu_memory(plan, needed)
    if not plan.local:
        return elsewhere("memory")
    free, where = available_memory(here.root)
    found = f"{plan.processes} ranks take about {gibibytes(needed)} each; {gibibytes(free)} {where}"
    advice = "take a smaller network.size, patch_size or micro-batch, or speed.recompute=block"
    return _fits(plan.processes * needed, free, found, advice)


def check_shared_memory(plan: WorldPlan, queued: int | None, here: Surroundings) -> Check:
    """Room in `/dev/shm` for the batches that loader workers hold ready."""
    if not plan.local:
        return elsewhere("shared memory")
    if queued is None:
        return Check("shared memory", None, "not known without the data's plan")
    place = here.root / "dev/shm"
    if not place.is_dir():
        return Check("shared memory", None, f"{place} is not there")
    free = shutil.disk_usage(place).free
    found = f"{gibibytes(free)} free, {gibibytes(queued)} needed for batches of the workers"
    if queued > free:
        return Check(
            "shared memory",
            False,
            found,
            "start the container with a larger --shm-size, or lower loader.workers or prefetch",
        )
    return Check("shared memory", True, found)


def check_limits(plan: WorldPlan) -> list[Check]:
    """The shell's limits; SLURM hands those of the submitting shell on to the job."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files == resource.RLIM_INFINITY or files >= OPEN_FILES
    checks = [
        Check(
            "open files",
            enough,
            f"limit {_limit(files)}",
            "" if enough else f"run 'ulimit -n {OPEN_FILES}' or more before",
        )
    ]
    if plan.on_gpus and plan.nodes > 1:
        locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        checks.append(
            Check(
                "locked memory",
                True if locked == resource.RLIM_INFINITY else None,
                f"limit {_limit(locked)}",
                ""
                if locked == resource.RLIM_INFINITY
                else "NCCL over InfiniBand pins memory: have it set to unlimited",
            )
        )
    core, _ = resource.getrlimit(resource.RLIMIT_CORE)
    if core != 0:
        found = f"limit {_limit(core)}: a rank that crashes may write its memory to disk"
        checks.append(Check("core files", None, found, "'ulimit -c 0' prevents it"))
    return checks


def check_gpus(plan: WorldPlan) -> Check:
    """Whether driver, torch and NCCL fit, and as many GPUs are there as ranks."""
    if not plan.local:
        return elsewhere("gpus")
    try:
        gpus, software = list_gpus(), gpu_software()
    except OSError as error:
        return Check("gpus", False, str(error), "mend the driver, or take the node out of service")
    if not gpus and not plan.on_gpus:
        return Check("gpus", None, f"none here, torch {software.torch}: a run on CPUs")
    if len(gpus) < plan.processes:
        found = f"{plan.processes} ranks, {len(gpus)} GPUs here"
        return Check("gpus", False, found, "start as many processes as there are GPUs")
    problem, advice = misfit(software)
    if problem:
        return Check("gpus", False, problem, advice)
    found = (
        f"{len(gpus)} x {gpus[0].name}, driver {gpus[0].driver} for CUDA up to"
        f" {software.driver_cuda}; torch {software.torch} for {software.torch_cuda}, NCCL"
        f" {software.nccl}"
    )
    return Check("gpus", True, found)


def misfit(software: GpuSoftware) -> tuple[str, str]:
    """What does not fit, and what to do; empty if all does.

    Within a major version a driver runs what was built for a newer CUDA.
    Source: CUDA Compatibility, minor version compatibility.
    """
    driver, built = software.driver_cuda, software.torch_cuda
    if software.torch is None or built is None:
        problem = f"torch {software.torch} was built without CUDA: it would train on the CPU"
        return problem, "install torch from the CUDA index, see the README"
    if driver is not None and _major(built) > _major(driver):
        problem = f"torch was built for CUDA {built}, the driver runs up to {driver}"
        return problem, "update the driver, or install torch for an older CUDA"
    if software.nccl is None:
        return "NCCL is not installed beside torch", "install torch again with its dependencies"
    return "", ""


def _check_gpu_memory(plan: WorldPlan, needed: int) -> Check:
    if not plan.gpu_memory_bytes:
        found = f"a rank takes about {gibibytes(needed)}; the GPU's memory is not known"
        return Check("memory", None, found, "tell it by gpu_gb=...")
    found = (
        f"a rank takes about {gibibytes(needed)} of the {gibibytes(plan.gpu_memory_bytes)} of"
        f" {plan.gpu_name or 'its GPU'}"
    )
    advice = (
        "lower parallel.micro_batch or patch_size, set speed.recompute=block, raise "
        "parallel.zero_stage, or use more GPUs; 'stunet estimate' shows what each gains"
    )
    return _fits(needed, round(GPU_SHARE * plan.gpu_memory_bytes), found, advice)


def _fits(needed: int, available: int, found: str, advice: str) -> Check:
    """Failed only where no error of the estimate could save it."""
    if needed <= available:
        return Check("memory", True, found)
    return Check("memory", None if needed * (1 - OFF_BY) <= available else False, found, advice)


def _major(cuda: str) -> int:
    return int(cuda.partition(".")[0])


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)
