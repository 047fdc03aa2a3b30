"""A real SLURM cluster of two nodes on this machine, below one folder; for the tests only."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

BINARIES = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel")
NODES = ("n0", "n1")
HERE = Path(__file__).resolve().parent


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    if os.geteuid() != 0:
        return "starting SLURM's daemons takes root"
    absent = [name for name in BINARIES if shutil.which(name, path=search_path()) is None]
    return f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)" if absent else ""


def search_path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def free_ports(count: int) -> list[int]:
    """Ports that are free now, below those that the system gives out by itself."""
    found: list[int] = []
    while len(found) < count:
        port = 8000 + secrets.randbelow(6000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


class Cluster:
    """Starts munged, slurmctld and two slurmd; stops them by their pid files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.conf = folder / "slurm.conf"
        text = (HERE / "slurm.conf.in").read_text().replace("@DIR@", str(folder))
        for place, port in enumerate(free_ports(3)):
            text = text.replace(f"@PORT{place}@", str(port))
        self.conf.write_text(text)
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (folder / name).mkdir()
        self.environment = os.environ | {
            "SLURM_CONF": str(self.conf),
            "PATH": f"{Path(sys.executable).parent}:{search_path()}",
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        key = self._folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        self.run(
            "munged",
            "--force",
            *(f"--{name}={self._folder / file}" for name, file in files.items()),
        )
        self.run("slurmctld", "-c", "-f", str(self.conf))
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: self._idle() == len(NODES), 30, "both nodes to be idle")

    def _idle(self) -> int:
        return int(self.run("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D").strip() or 0)

    def start_node(self, node: str) -> None:
        self.run("slurmd", "-f", str(self.conf), "-N", node)

    def lose_node(self, node: str) -> None:
        """End a node's slurmd and freeze all else on it, as a cut cable does."""
        self._kill(f"slurmd.{node}.pid")
        for process in self._processes(node):
            process.send_signal(signal.SIGSTOP)

    def return_node(self, node: str) -> None:
        """Boot the node: nothing that ran on it is left."""
        for process in self._processes(node):
            process.kill()
        self.start_node(node)

    def ranks(self, node: str) -> list[psutil.Process]:
        """The training processes on a node."""
        return [p for p in self._processes(node) if "RANK" in p.environ()]

    def _processes(self, node: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except psutil.Error:
                continue
            ours = environment.get("SLURM_CONF") == str(self.conf)
            if ours and environment.get("SLURMD_NODENAME") == node:
                found.append(process)
        return found

    def stop(self) -> None:
        for node in NODES:
            for process in self._processes(node):
                process.kill()
        for name in ("slurmd.n0.pid", "slurmd.n1.pid", "slurmctld.pid", "munged.pid"):
            self._kill(name)

    def _kill(self, pid_file: str) -> None:
        file = self._folder / pid_file
        if file.exists() and psutil.pid_exists(pid := int(file.read_text())):
            psutil.Process(pid).kill()
            psutil.Process(pid).wait(10) if psutil.pid_exists(pid) else None
        file.unlink(missing_ok=True)

    def run(self, *command: str) -> str:
        """Run one of SLURM's commands, or ours, in this cluster's environment."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def stunet(self, *arguments: str | Path, timeout_s: float = 250, **environment: str) -> str:
        """Run the `stunet` command and return what it prints."""
        done = self.try_stunet(*arguments, timeout_s=timeout_s, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def try_stunet(
        self, *arguments: str | Path, timeout_s: float = 250, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "launch.cli", *map(str, arguments)]
        return subprocess.run(
            command,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job."""
        text = self.run("scontrol", "show", "job", number, "--oneliner")
        return dict(re.findall(r"(?:^|\s)([A-Za-z]+)=(\S*)", text))

    def wait_for_requeue(self, number: str, restarts: int) -> None:
        """Wait until a job is back in the queue, and spare it the two minutes that it rests.

        Not all of them: a node refuses a job that starts within the second in which it was ended.
        """
        requeued = lambda: self.job(number)["Restarts"] == str(restarts)  # noqa: E731
        wait_for(requeued, 120, f"job {number} to be requeued for the {restarts}. time")
        wait_for(
            lambda: self.job(number)["JobState"] != "COMPLETING",
            60,
            f"job {number} to leave its nodes",
        )
        if self.job(number)["JobState"] == "PENDING":
            self.run("scontrol", "update", f"JobId={number}", "StartTime=now+3")

    def wait_for_end(self, number: str, timeout_s: float = 240) -> str:
        """Wait until a job is over and return its state."""
        going = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")
        over = lambda: self.job(number)["JobState"] not in going  # noqa: E731
        wait_for(over, timeout_s, f"job {number} to end")
        return self.job(number)["JobState"]


def wait_for(true: Callable[[], bool], timeout_s: float, what: str) -> None:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < timeout_s, f"waited {timeout_s} s for {what}"
        time.sleep(0.1)
