"""Start a verb on several processes of this machine: torchrun's launcher, called as a library.

Called as a library and not as a command, because the command loses the exit code of the ranks, and
75 (preempted and saved) must reach whoever requeues.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from uuid import uuid4

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stunet.errors import Preempted


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `stunet ARGUMENTS` on `processes` ranks; return the exit code of the first that failed.

    A rank prints its own error; the others are ended. A signal is passed on to the ranks, which
    then have half a minute to save themselves. Threads are shared out evenly, since as many
    threads as cores in each process would slow all of them.

    Raises:
        Preempted: This process was sent a signal.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    _silence_torchrun()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        # -P: a folder called `stunet` in the working directory must not be taken for the package.
        elastic_launch(config, sys.executable)("-P", "-m", "launch.cli", *arguments)
    except ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)
    except SignalException as error:
        raise Preempted(
            f"stopped by {error.sigval.name}; the same command continues from the last checkpoint"
        ) from None
    return 0


def _silence_torchrun() -> None:
    """Leave the talking to the ranks; each of torchrun's loggers has a level of its own."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
