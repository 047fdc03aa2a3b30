"""Which rank am I, how many are we, and how do we agree: all that training asks of its peers.

Every question is asked over host memory (gloo), so that asking never waits for a GPU. Gradients and
weights travel elsewhere, inside DeepSpeed. Outside a launcher there is one rank and every function
answers for it alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from stunet.engine.signals import end_with_parent
from stunet.errors import CheckpointError, StunetError


def start(timeout_s: float = 1800.0) -> None:
    """Join the process group that the launcher announces by RANK, WORLD_SIZE and MASTER_ADDR.

    Without a launcher a group of one is formed in memory: no port, no MPI, nothing to collide with.
    Does nothing when a group exists already.

    Args:
        timeout_s: How long a collective waits for a missing rank. Half an hour covers rank 0
            checking a checkpoint of several GB while the others wait.
    """
    if dist.is_initialized():
        return
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    timeout = timedelta(seconds=timeout_s)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        end_with_parent()
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(
            backend, timeout=timeout, store=dist.HashStore(), rank=0, world_size=1
        )


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """The place of this process among all; 0 is the one that writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and speaks to the user."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank is here."""
    gather_numbers([0.0])


def on_any_rank(flags: Sequence[bool]) -> list[bool]:
    """Whether at least one rank says so, for each flag; the same answer everywhere."""
    rows = gather_numbers([float(flag) for flag in flags])
    return [any(column) for column in zip(*rows, strict=True)]


def gather_numbers(values: Sequence[float]) -> list[list[float]]:
    """Every rank's values, in rank order, on every rank.

    Sums of them are the same on all ranks to the last bit, which a reduction does not promise.
    """
    mine = torch.tensor(values, dtype=torch.float64)
    if world() == 1:
        return [mine.tolist()]
    rows = [torch.empty_like(mine) for _ in range(world())]
    dist.all_gather(rows, mine)
    return [row.tolist() for row in rows]


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of every rank's tensor, on every rank; where the tensor lies, so a GPU's stays there.

    Never differentiated through.
    """
    total = values.detach().clone()
    if world() > 1:
        dist.all_reduce(total)
    return total


def gather_text(text: str) -> list[str]:
    """Every rank's text, in rank order, on every rank."""
    if world() == 1:
        return [text]
    texts: list[str] = [""] * world()
    dist.all_gather_object(texts, text)
    return texts


def broadcast_text(text: str) -> str:
    """Rank 0's text, on every rank."""
    if world() == 1:
        return text
    holder = [text]
    dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
    return holder[0]


def run_on_main(action: Callable[[], str]) -> str:
    """Let rank 0 do what needs the disk; every rank gets its answer, or raises its error.

    Raises:
        CheckpointError: `action` raised a `StunetError` or an `OSError` on rank 0. Without this
            the other ranks would wait for rank 0 until the collective times out.
    """
    answer, failure, cause = "", "", None
    if is_main():
        try:
            answer = action()
        except (StunetError, OSError) as error:
            failure, cause = str(error), error
    failure, answer = json.loads(broadcast_text(json.dumps([failure, answer])))
    if failure:
        raise CheckpointError(failure) from cause
    return answer
