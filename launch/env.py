"""What the command checks and sets in its surroundings before it starts."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from stunet.errors import ConfigError

NEIGHBOURS = ("configs", "data_tools", "finetune", "launch", "pretrain")


@dataclass(frozen=True)
class Rank:
    """The place of this process among those that torchrun started; alone without torchrun.

    Attributes:
        index: From 0.
        world: How many processes there are.
        local: From 0, among those of this machine.
    """

    index: int
    world: int
    local: int

    def device(self, name: str) -> str:
        """`cuda` as the GPU of this rank; every other name as it is."""
        return f"cuda:{self.local}" if name == "cuda" and self.world > 1 else name


def this_rank() -> Rank:
    """Read what torchrun announces."""
    index, world, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    return Rank(index, world, local)


def node_index() -> int:
    """Read which node of a job this is, as SLURM announces it."""
    return int(os.environ.get("SLURM_NODEID", "0"))


def announced_port() -> int | None:
    """Where ranks that a user starts by hand will meet; `launch` chooses a port of its own."""
    port = os.environ.get("MASTER_PORT", "")
    return int(port) if port.isdigit() else None


def check_neighbours() -> None:
    """Make sure that our folders with generic names are the ones that lie beside `stunet`.

    Names such as `pretrain` are common; a folder of that name in the working directory or another
    installed package would be imported instead of ours.
    """
    home = _folder("stunet").parent
    for name in NEIGHBOURS:
        folder = _folder(name)
        if folder.parent != home:
            raise ConfigError(
                f"package {name!r} was found at {folder}, not beside stunet in {home}; "
                "rename that folder or start from another directory"
            )


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of handing it back to the system at once.

    A network on a CPU frees and asks for the same large tensors in every step; returning their
    pages and having them zeroed again took 40% of a training step's time (docs/log.md).
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"package {package!r} is not installed; run 'pip install stunet' again")
    return Path(next(iter(spec.submodule_search_locations))).resolve()
