"""Runs on every rank; `test_elastic.py` starts it on 1, 2 and 4 ranks and reads what it leaves.

usage: elastic_worker.py TASK FOLDER
"""

import gc
import json
import shutil
import sys
import warnings
from pathlib import Path

warnings.simplefilter("error")

import torch  # noqa: E402
from tiny_problem import GLOBAL_BATCH, SEED, TinyNet, loss_function, rank_stream  # noqa: E402
from torch import nn  # noqa: E402
from worker import SHARD_ALL, main, write  # noqa: E402

from stunet.engine import checkpoint, distributed  # noqa: E402
from stunet.engine.deepspeed_engine import TrainEngine  # noqa: E402
from stunet.engine.guard import GuardConfig  # noqa: E402
from stunet.engine.loop import Hooks, LoopConfig, fit  # noqa: E402
from stunet.engine.optim import OptimConfig  # noqa: E402
from stunet.engine.parallel import ParallelConfig  # noqa: E402
from stunet.engine.state import TrainState  # noqa: E402

STEPS = 6
GUARD = GuardConfig(spike_deviations=20.0, window=2)
LOOP = LoopConfig(log_every=1, checkpoint_every=1, keep_checkpoints=9, guard=GUARD)


def train(run, stage, *, net_seed=0, loss=loss_function, validate=None):
    """Start or continue the run in folder `run` and train to its end."""
    optim = OptimConfig(total_steps=STEPS, ema_decay=0.9)
    parallel = ParallelConfig(stage, 1, "fp32", deepspeed=SHARD_ALL if stage == 3 else {})
    engine = TrainEngine.start(TinyNet(net_seed), optim, parallel, GLOBAL_BATCH)
    fresh = TrainState(SEED, "abc", distributed.world(), stage)
    state = checkpoint.restore(engine, run / "checkpoints", fresh)
    stream = rank_stream(distributed.rank(), distributed.world(), 1, state.step)
    hooks = Hooks(validate=None if validate is None else lambda step: validate(engine))
    config = LOOP if validate is None else LoopConfig(log_every=1, validate_every=STEPS)
    fit(engine, stream, loss, state, run, config, hooks)
    weights = engine.gather_weights()
    engine.close()
    return weights


def continue_from(source, step, run):
    """Lay out `run` as a crash after a step of the run `source` would have left it."""
    if distributed.is_main():
        shutil.copytree(source, run)
        for later in (run / "checkpoints").glob("step_*"):
            if later.name > f"step_{step:06d}":
                shutil.rmtree(later)
    distributed.barrier()


def one(folder):
    """One rank: the undisturbed run."""
    train(folder / "straight", 0)
    measure_model_state(folder)


def two(folder):
    """Two ranks: continue at ZeRO 2; a loss that jumps on one of them; validation of averages."""
    continue_from(folder / "straight", 3, folder / "to_w2_s2")
    train(folder / "to_w2_s2", 2, net_seed=99)
    continue_from(folder / "straight", 2, folder / "chain_w2_s2")
    train(folder / "chain_w2_s2", 2, net_seed=99)
    for stage in (0, 2, 3):
        train(folder / f"spike_s{stage}", stage, loss=jumping_loss(at_call=7))
    for stage in (1, 3):
        averaged_validation(folder / f"validated_s{stage}", stage)
    measure_model_state(folder)


def four(folder):
    """Four ranks: continue at ZeRO 3."""
    continue_from(folder / "straight", 3, folder / "to_w4_s3")
    train(folder / "to_w4_s3", 3, net_seed=99)
    continue_from(folder / "chain_w2_s2", 4, folder / "chain_w4_s3")
    train(folder / "chain_w4_s3", 3, net_seed=99)
    measure_model_state(folder)


def one_again(folder):
    """One fresh rank: continue at ZeRO 0."""
    continue_from(folder / "straight", 3, folder / "to_w1_s0")
    train(folder / "to_w1_s0", 0, net_seed=99)
    continue_from(folder / "chain_w4_s3", 5, folder / "chain_w1_s0")
    train(folder / "chain_w1_s0", 0, net_seed=99)


def jumping_loss(at_call):
    """The loss, a hundred times too high in one micro-batch of rank 1 alone."""
    calls = 0

    def loss(logits, label):
        nonlocal calls
        calls += 1
        jumps = calls == at_call and distributed.rank() == 1
        return loss_function(logits, label) * (100 if jumps else 1)

    return loss


def averaged_validation(run, stage):
    """Note what the model computes with in validation, on every rank, and after it."""
    image = next(rank_stream(0, 1, 4)).image_bcdhw
    seen = []

    def validate(engine):
        seen.append(engine.forward(image).sum().item())
        return {}

    weights = train(run, stage, validate=validate)
    write(run / "seen.json", [json.loads(t) for t in distributed.gather_text(json.dumps(seen))])
    if distributed.is_main():
        torch.save(weights, run / "after.pt")
    distributed.barrier()


class WideNet(nn.Module):
    """442 882 parameters, so that the odd element of padding does not count."""

    def __init__(self):
        super().__init__()
        middle = [nn.Conv3d(64, 64, 3, padding=1) for _ in range(4)]
        self.layers = nn.Sequential(nn.Conv3d(1, 64, 1), *middle, nn.Conv3d(64, 2, 1))

    def forward(self, image_bcdhw):
        return self.layers(image_bcdhw)


def measure_model_state(folder):
    """Bytes of all tensors of this rank that a step needs, by stage and optimiser."""
    found = {}
    for stage in (0, 1, 2, 3):
        for name in ("sgd", "adamw"):
            found[f"{name}_{stage}"] = bytes_in_step(name, stage, ema_decay=None)
    found["average_3"] = bytes_in_step("sgd", 3, ema_decay=0.9)
    gathered = distributed.gather_text(json.dumps(found))
    write(folder / f"bytes_{distributed.world()}.json", [json.loads(text) for text in gathered])


def bytes_in_step(name, stage, ema_decay):
    """What is alive when the optimiser is about to step, without DeepSpeed's reduction bucket."""
    before = set(live_storages())
    net = WideNet()
    optim = OptimConfig(name=name, total_steps=9, ema_decay=ema_decay)
    parallel = ParallelConfig(stage, 1, "fp32", deepspeed=SHARD_ALL if stage == 3 else {})
    engine = TrainEngine.start(net, optim, parallel, distributed.world())
    measured = []

    def measure(*_):
        now = {key: size for key, size in live_storages().items() if key not in before}
        # Stages 1 and 2 have freed theirs by now.
        buckets = engine._wrapped.optimizer.ipg_buckets.values() if stage == 3 else ()
        measured.append(sum(now.values()) - sum(bucket.buffer.nbytes for bucket in buckets))

    engine._optimizer.register_step_pre_hook(measure)
    for _ in range(2):
        loss = engine.forward(torch.ones(1, 1, 4, 4, 4)).pow(2).mean()
        engine.backward(loss)
        del loss
        engine.step()
    engine.close()
    return measured[-1]


def live_storages():
    """Address and bytes of the memory of every tensor that Python knows of."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, nn.Parameter)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


if __name__ == "__main__":
    tasks = {task.__name__: task for task in (one, two, four, one_again)}
    main(tasks[sys.argv[1]], Path(sys.argv[2]))
