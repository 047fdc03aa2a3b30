"""Runs on every rank; `test_engine.py` and `test_preemption.py` start it and read what it leaves.

usage: worker.py TASK FOLDER
"""

import json
import logging
import os
import shutil
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

warnings.simplefilter("error")

import torch  # noqa: E402
from plain_loop import train_plainly  # noqa: E402
from tiny_problem import GLOBAL_BATCH, SEED, TinyNet, loss_function, rank_stream  # noqa: E402

from stunet.engine import checkpoint, distributed  # noqa: E402
from stunet.engine.deepspeed_engine import TrainEngine  # noqa: E402
from stunet.engine.loop import LoopConfig, fit  # noqa: E402
from stunet.engine.optim import OptimConfig  # noqa: E402
from stunet.engine.parallel import ParallelConfig  # noqa: E402
from stunet.engine.state import TrainState  # noqa: E402
from stunet.errors import CheckpointError, StunetError, TrainingError  # noqa: E402

STEPS = 10
STAGES = (0, 1, 2, 3)
LOOP = LoopConfig(log_every=1, checkpoint_every=3, keep_checkpoints=9, max_skipped=2)
# By default ZeRO 3 leaves weights this small whole on every rank; here it must shard them.
SHARD_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 50}}


def train(run, stage, *, optimizer="sgd", micro_batch=1, precision="fp32", broken=None, net_seed=0):
    """Start or continue the run in folder `run` and train to its end."""
    optim = OptimConfig(name=optimizer, total_steps=STEPS)
    sharding = SHARD_ALL if stage == 3 else {}
    parallel = ParallelConfig(stage, micro_batch, precision, deepspeed=sharding)
    engine = TrainEngine.start(TinyNet(net_seed), optim, parallel, GLOBAL_BATCH)
    fresh = TrainState(SEED, "abc", distributed.world(), stage)
    try:
        state = checkpoint.restore(engine, run / "checkpoints", fresh)
        stream = rank_stream(
            distributed.rank(), distributed.world(), micro_batch, state.step, broken
        )
        fit(engine, stream, loss_function, state, run, LOOP)
    finally:
        engine.close()


def write(path, values):
    if distributed.is_main():
        path.write_text(json.dumps(values))


def continue_from(source, run):
    """Lay out `run` as a crash after step 3 of the run `source` would have left it."""
    if distributed.is_main():
        shutil.copytree(source, run)
        for later in (run / "checkpoints").glob("step_*"):
            if later.name > "step_000003":
                shutil.rmtree(later)
    distributed.barrier()


def first_launch(folder):
    """Two ranks: every stage, both optimisers, broken samples, what only rank 0 can know."""
    for stage in STAGES:
        train(folder / f"w2_s{stage}", stage)  # accumulates two micro-batches
        train(folder / f"w2_s{stage}_whole", stage, micro_batch=2)
        train(folder / f"w2_s{stage}_adamw", stage, optimizer="adamw")
        train(folder / f"w2_s{stage}_adamw_whole", stage, optimizer="adamw", micro_batch=2)
        train(folder / f"nan_s{stage}", stage, broken=18)  # step 5 of 10, on rank 1 alone
    errors = []
    for stage in (0, 1):
        stream = rank_stream(distributed.rank(), distributed.world(), 2, broken=3)
        again = [next(stream)] * 5
        optim, parallel = OptimConfig(total_steps=STEPS), ParallelConfig(stage, 2, "fp32")
        engine = TrainEngine.start(TinyNet(0), optim, parallel, GLOBAL_BATCH)
        try:
            fit(engine, again, loss_function, TrainState(SEED, ""), folder / f"bad{stage}", LOOP)
        except TrainingError as error:
            errors.append(str(error))
        engine.close()
    gathered = [distributed.gather_text(error) for error in errors]
    write(folder / "skipped.json", gathered)
    answers = [
        distributed.broadcast_text(f"from {distributed.rank()}"),
        distributed.on_any_rank([distributed.rank() == 1, False]),
        distributed.gather_numbers([distributed.rank()]),
        _said_by(lambda: distributed.run_on_main(lambda: f"done by {distributed.rank()}")),
        _said_by(lambda: distributed.run_on_main(_fail)),
    ]
    gathered = distributed.gather_text(json.dumps(answers))
    write(folder / "answers.json", [json.loads(text) for text in gathered])


def _fail():
    raise OSError("no space")


def _said_by(action):
    try:
        return action()
    except CheckpointError as error:
        return f"error: {error}"


def single_process(folder):
    """One rank: the reference, the engine, and runs begun by two ranks at another stage."""
    for name in ("sgd", "adamw"):
        losses, norms, weights = train_plainly(name, STEPS)
        write(folder / f"plain_{name}.json", {"losses": losses, "norms": norms})
        torch.save(weights, folder / f"plain_{name}.pt")
    write(folder / "plain_nan.json", {"losses": train_plainly("sgd", STEPS, broken=18)[0]})
    write(folder / "plain_bf16.json", {"losses": train_plainly("sgd", STEPS, bf16=True)[0]})
    train(folder / "w1_s0", 0)
    train(folder / "w1_s0_adamw", 0, optimizer="adamw")
    train(folder / "w1_s0_bf16", 0, precision="bf16", micro_batch=2)
    for stage in STAGES:
        other = (stage + 1) % 4
        run = folder / f"w2_s{stage}_to_w1_s{other}"
        continue_from(folder / f"w2_s{stage}", run)
        train(run, other, micro_batch=2, net_seed=99)


def second_launch(folder):
    """Two fresh ranks: continue what two ranks and what one rank began."""
    for name, stage, optimizer in (
        *((f"w2_s{stage}", stage, "sgd") for stage in STAGES),
        ("w2_s2_adamw", 2, "adamw"),
        ("w1_s0", 3, "sgd"),
    ):
        run = folder / f"{name}_to_w2_s{stage}"
        continue_from(folder / name, run)
        train(run, stage, optimizer=optimizer, net_seed=99)


def until_stopped(folder):
    """Two ranks: steps that take their time, until a signal comes."""

    def slowly(stream):
        for batch in stream:
            time.sleep(0.02)
            yield batch

    optim, parallel = OptimConfig(total_steps=10_000), ParallelConfig(1, 2, "fp32")
    engine = TrainEngine.start(TinyNet(0), optim, parallel, GLOBAL_BATCH)
    stream = slowly(rank_stream(distributed.rank(), distributed.world(), 2))
    config = LoopConfig(log_every=1, checkpoint_every=10_000)
    fit(engine, stream, loss_function, TrainState(SEED, "abc", 2, 1), folder / "run", config)


def until_hung(folder):
    """One rank whose third batch never comes."""

    def drying_up(stream):
        yield from (next(stream), next(stream))
        threading.Event().wait()

    optim, parallel = OptimConfig(total_steps=10), ParallelConfig(0, GLOBAL_BATCH, "fp32")
    engine = TrainEngine.start(TinyNet(0), optim, parallel, GLOBAL_BATCH)
    stream = drying_up(rank_stream(0, 1, GLOBAL_BATCH))
    config = LoopConfig(log_every=1, hang_timeout_s=2.0)
    fit(engine, stream, loss_function, TrainState(SEED, "abc"), folder / "run", config)


TASKS = {
    f.__name__: f for f in (first_launch, single_process, second_launch, until_stopped, until_hung)
}


def main(task, folder):
    """Run a task and leave as `launch/cli.py` does, with its exit code and for its reason."""
    logging.basicConfig(format="%(message)s")
    distributed.start(timeout_s=60)
    code = 1
    try:
        task(folder)
        distributed.barrier()
        code = 0
    except StunetError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(TASKS[sys.argv[1]], Path(sys.argv[2]))
