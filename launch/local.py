"""Start a verb on several processes of this machine: torchrun's launcher, called as a library.

Called as a library and not as a command, because the command loses the exit code of the ranks, and
75 (preempted and saved) must reach whoever requeues. On a cluster every node runs one of these.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import psutil
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stunet.errors import Preempted, TrainingError

FORWARDED = (signal.SIGTERM, signal.SIGUSR2)
JOIN_TIMEOUT_S = 900  # for all nodes to start: a busy file system takes minutes to import torch


@dataclass(frozen=True)
class Node:
    """The place of this machine among those that train together.

    Attributes:
        index: From 0; rank 0 runs on node 0.
        count: How many there are.
        endpoint: `HOST:PORT` on node 0 where they meet.
    """

    index: int
    count: int
    endpoint: str


def launch(arguments: Sequence[str], processes: int, node: Node | None = None) -> int:
    """Run `stunet ARGUMENTS` on `processes` ranks of this machine; return their exit code.

    A rank prints its own error; the others are ended. The code is that of the first that failed,
    128 + N for one that signal N killed. SIGTERM and SIGUSR2 are passed on to the ranks, which save
    themselves and leave in their own time; Ctrl-C gives them half a minute. Threads are shared out
    evenly, since as many threads as cores in each process would slow all of them.

    Args:
        arguments: Of the `stunet` command.
        processes: On this machine.
        node: Which of several machines this is; None: it is alone.

    Raises:
        Preempted: This process was sent a signal.
    """
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGINT,SIGHUP,SIGQUIT"  # ours are not these
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # a large checkpoint, not 30 s
    _silence_torchrun()
    with _passing_on() as asked:
        try:
            # -P: a folder called `stunet` in the working directory is not the package.
            start = elastic_launch(_torchrun_config(processes, node), sys.executable)
            start("-P", "-m", "launch.cli", *arguments)
        except ChildFailedError as error:
            code = error.get_first_failure()[1].exitcode
            if asked and code != Preempted.exit_code:  # too early in a rank's life to save
                raise _preempted(asked[0]) from None
            return 128 - code if code < 0 else max(1, code)
        except SignalException as error:
            raise _preempted(error.sigval.name) from None
    return 0


def train_to_end(arguments: Sequence[str], processes: int) -> None:
    """`launch` a training, for a verb that goes on with what comes of it.

    Raises:
        Preempted: It was asked to stop and saved itself.
        TrainingError: A process failed; its own message stands above.
    """
    code = launch(arguments, processes)
    if code == Preempted.exit_code:
        raise Preempted("training saved itself and stopped; the same command continues")
    if code != 0:
        raise TrainingError(f"training ended with exit code {code}; its own message stands above")


def _preempted(signal_name: str) -> Preempted:
    return Preempted(
        f"stopped by {signal_name}; the same command continues from the last checkpoint"
    )


def _torchrun_config(processes: int, node: Node | None) -> LaunchConfig:
    if node is None:
        return LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.2,
        )
    return LaunchConfig(
        min_nodes=node.count,
        max_nodes=node.count,
        nproc_per_node=processes,
        run_id="stunet",
        rdzv_backend="static",  # ranks by node index, hence the same after every requeue
        rdzv_endpoint=node.endpoint,
        rdzv_configs={"rank": node.index, "timeout": JOIN_TIMEOUT_S},
        max_restarts=0,
        monitor_interval=0.2,
    )


@contextmanager
def _passing_on() -> Iterator[list[str]]:
    """Inside, `FORWARDED` signals go to the ranks; yields the names of those that came."""
    asked: list[str] = []

    def pass_on(number: int, _frame: object) -> None:
        asked.append(signal.Signals(number).name)
        for rank in psutil.Process().children():
            try:
                rank.send_signal(number)
            except psutil.NoSuchProcess:
                continue  # it has left already

    before = {number: signal.signal(number, pass_on) for number in FORWARDED}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _silence_torchrun() -> None:
    """Leave the talking to the ranks; each of torchrun's loggers has a level of its own."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
