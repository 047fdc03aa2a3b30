"""`launch drill`: is a job of ours interrupted and continued without loss on this very cluster?

A small training on phantom data is submitted, asked to save in the middle by the signal that SLURM
sends before the time limit, requeued, and compared with the same training left alone. It runs on
the nodes' CPUs, one process each: it tries the cluster's signals and queue, not its GPUs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import typer
from safetensors.torch import load_file

from data_tools.ingest import ingest
from data_tools.phantom import PhantomConfig, write_phantom
from data_tools.plan import PlanConfig
from data_tools.prepare import PrepareConfig, prepare
from launch.launch_config import LaunchConfig
from launch.local import launch
from launch.slurm import ask, describe_job, submit, write_recipe
from launch.slurm_script import LAUNCH, load_recipe, training_script
from stunet.engine.checkpoint_files import WEIGHTS, newest_whole
from stunet.engine.json_lines import read_rows
from stunet.engine.loop import CHECKPOINTS
from stunet.engine.tracking import METRICS
from stunet.errors import TrainingError
from stunet.training.run_folder import RUN, read_json

RECIPE = "pretrain/drill"
SIGNAL_AFTER_STEP = 3
ANSWER_TIMEOUT_S = 300.0  # for a signalled job to save, and for the queue to take it back
POLL_S = 0.5
ON_CPU = ("export CUDA_VISIBLE_DEVICES=", "export OMP_NUM_THREADS=1")
WAITING = ("PENDING", "CONFIGURING", "COMPLETING", "REQUEUED", "RUNNING", "SUSPENDED")


def drill(config: LaunchConfig, out: Path) -> str:
    """Run the drill and return one line that says it passed.

    Args:
        config: Partition, account, nodes and so on of the jobs that it stands for.
        out: Folder for everything made, on a file system that the nodes see.

    Raises:
        TrainingError: What the cluster does not do, and what to do about it.
    """
    config = replace(
        config,
        gpus=0,
        processes=1,
        time="15",
        lead_s=60,
        array={},
        environment=(*config.environment, *ON_CPU),
    )
    store = _phantom_store(out)
    interrupted, alone = out / "interrupted", out / "alone"
    for run in (interrupted, alone):
        shutil.rmtree(run, ignore_errors=True)
    values = [f"store={store}", f"out={interrupted}", f"global_batch={config.nodes}"]
    recipe = load_recipe("pretrain", RECIPE, values)
    write_recipe(interrupted / LAUNCH, recipe)
    script = training_script(config, "pretrain", recipe)
    job = submit(script, interrupted / LAUNCH / "drill.sbatch")
    try:
        _interrupt(job, interrupted)
        _say("the same training, left alone, on this machine")
        _train_alone(interrupted / LAUNCH / "recipe.yaml", alone, config.nodes)
        _say(f"job {job} goes on")
        _wait_for_end(job, interrupted)
    except BaseException:
        ask("scancel", job)
        raise
    return _verdict(job, interrupted, alone)


def _phantom_store(out: Path) -> Path:
    phantom = PhantomConfig(cases=4, classes=4, shape_zyx=(48, 64, 80))
    raw = ingest(write_phantom(out / "raw", phantom))
    plan = PlanConfig(patch_size=(32, 32, 32))
    prepare(raw, out / "store", PrepareConfig(workers=0, holdout=1, plan=plan))
    return out / "store"


def _interrupt(job: str, run: Path) -> None:
    """Let the job train for a few steps, ask it to save and see it go back into the queue."""
    if describe_job(job).get("Requeue") == "0":
        raise TrainingError(
            f"drill: job {job} may not be requeued (Requeue=0): set requeue=true, unset"
            " SBATCH_NO_REQUEUE, or ask the cluster's administrators to allow it"
        )
    _say(f"job {job} waits for {run.name} to train; log in {run / LAUNCH}")
    _until(lambda: _steps(run) >= SIGNAL_AFTER_STEP or _ended(job), timeout_s=None)
    _fail_if_ended(job, run, "before it could be interrupted")
    ask("scancel", "--signal=USR1", "--batch", job)
    _say(f"job {job} was asked to save after step {_steps(run)}")
    _until(lambda: _restarts(job) > 0 or _ended(job), ANSWER_TIMEOUT_S)
    _fail_if_ended(job, run, "and did not go back into the queue")
    if _restarts(job) == 0:
        raise TrainingError(
            f"drill: job {job} did not answer USR1 within {ANSWER_TIMEOUT_S:.0f} s: the batch shell"
            f" or the ranks do not get signals; see {_log(run, job)}"
        )
    _hurry(job)


def _train_alone(recipe: Path, out: Path, processes: int) -> None:
    code = launch(["pretrain", str(recipe), f"out={out}"], processes)
    if code != 0:
        raise TrainingError(f"drill: the undisturbed run on this machine failed with code {code}")


def _wait_for_end(job: str, run: Path) -> None:
    _until(lambda: _ended(job), timeout_s=None)
    state = describe_job(job).get("JobState", "")
    if state not in ("COMPLETED", ""):
        raise _ended_badly(job, run, state, "after it was requeued")


def _verdict(job: str, interrupted: Path, alone: Path) -> str:
    """Compare losses and weights of the two runs."""
    history = read_json(interrupted, RUN)["history"]
    if not history:
        raise TrainingError(
            f"drill: job {job} began anew after it was requeued: {interrupted} is not the same"
            " folder on all nodes; choose --out on a shared file system"
        )
    losses = [_losses(run) for run in (interrupted, alone)]
    weights = [_weights(run) for run in (interrupted, alone)]
    off = max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
        for a, b in zip(weights[0].values(), weights[1].values(), strict=True)
    )
    steps = len(losses[1])
    said = f"drill passed: job {job} saved itself at step {history[0]['step']}, was requeued"
    said += f" and ended at step {steps};"
    if losses[0] == losses[1] and off == 0:
        return f"{said} losses and weights equal those of an undisturbed run to the bit"
    if len(losses[0]) == steps and off < 1e-3:  # other processors round otherwise
        return (
            f"{said} weights equal those of an undisturbed run up to {off:.1e}, since this"
            " machine's processor rounds differently from the nodes'"
        )
    raise TrainingError(
        f"drill: job {job} ended with other weights than the undisturbed run (by {off:.1e});"
        f" compare {interrupted / METRICS} and {alone / METRICS}"
    )


def _losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run / METRICS)]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint, _ = newest_whole(run / CHECKPOINTS)
    assert checkpoint is not None, "both runs have ended"
    return load_file(checkpoint / WEIGHTS)


def _steps(run: Path) -> int:
    return max((int(row["step"]) for row in read_rows(run / METRICS)), default=0)


def _restarts(job: str) -> int:
    return int(describe_job(job).get("Restarts", "0"))


def _ended(job: str) -> bool:
    return describe_job(job).get("JobState", "") not in WAITING


def _fail_if_ended(job: str, run: Path, when: str) -> None:
    if not _ended(job):
        return
    state = describe_job(job).get("JobState", "")
    if state == "COMPLETED":
        raise TrainingError(
            f"drill: job {job} ran to its end {when}: USR1 does not reach the batch shell or USR2"
            f" not the ranks; see {_log(run, job)}"
        )
    raise _ended_badly(job, run, state, when)


def _ended_badly(job: str, run: Path, state: str, when: str) -> TrainingError:
    log = _log(run, job)
    text = log.read_text(errors="replace") if log.exists() else ""
    if "scontrol: command not found" in text or "cannot requeue itself" in text:
        return TrainingError(
            f"drill: job {job} saved itself but the node cannot requeue it (scontrol is missing or"
            " refused there); ask for scontrol on the nodes, or for RequeueExit=75 in slurm.conf"
        )
    last = text.strip().splitlines()[-1:] or ["it wrote nothing"]
    return TrainingError(f"drill: job {job} ended {state} {when}: {last[0]}; see {log}")


def _log(run: Path, job: str) -> Path:
    return run / LAUNCH / f"{job}.log"


def _hurry(job: str) -> None:
    """Ask SLURM to shorten the two minutes that it lets requeued jobs wait.

    Not to nothing: a node refuses a job that starts within the second in which it was ended.
    """
    _until(lambda: describe_job(job).get("JobState") != "COMPLETING", ANSWER_TIMEOUT_S)
    if describe_job(job).get("JobState") == "PENDING":
        ask("scontrol", "update", f"JobId={job}", "StartTime=now+3")


def _until(true: Callable[[], bool], timeout_s: float | None) -> None:
    """Wait for something to become true, at most so long."""
    started = time.monotonic()
    while not true():
        if timeout_s is not None and time.monotonic() - started > timeout_s:
            return
        time.sleep(POLL_S)


def _say(line: str) -> None:
    typer.echo(line, err=True)
