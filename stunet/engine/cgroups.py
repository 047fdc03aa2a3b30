"""What a container or batch system allows this process: limits of control groups, v1 and v2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

UNLIMITED_BYTES = 1 << 60  # v1 has no word for "no limit": it says about 2**63


class MemoryLimit(NamedTuple):
    """Of a control group, in bytes; `used` leaves out the page cache that can be given back."""

    limit: int
    used: int


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Cores' worth of time, the tightest on the way up; None: no limit.

    Args:
        root: Below it lie `proc` and `sys`.
    """
    limits = []
    for folder in _groups(root, "cpu"):
        if (quota := _words(folder / "cpu.max")) and quota[0] != "max":
            limits.append(int(quota[0]) / int(quota[1]))
        micros, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
        if micros and period and int(micros[0]) > 0:
            limits.append(int(micros[0]) / int(period[0]))
    return min(limits, default=None)


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """The group on the way up that leaves the least memory; None: no limit."""
    limits = []
    for folder in _groups(root, "memory"):
        for limit_file, used_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _words(folder / limit_file), _words(folder / used_file)
            if limit and used and limit[0] != "max" and int(limit[0]) < UNLIMITED_BYTES:
                in_use = int(used[0]) - _inactive_cache(folder)
                limits.append(MemoryLimit(int(limit[0]), in_use))
    return min(limits, key=lambda one: one.limit - one.used, default=None)


def available_memory(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes that this machine or its control groups still allow, and in words whose they are."""
    free = psutil.virtual_memory().available
    group = memory_limit(root)
    if group is not None and group.limit - group.used < free:
        return group.limit - group.used, "left of the control group's limit"
    return free, "free"


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's groups that may limit `controller`, each with those above it.

    Source: cgroups(7). Inside a container the path may be that of the host; the folders that are
    not there are passed over.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            bases = (mounts, mounts / "unified")
        elif controller in controllers.split(","):
            bases = (mounts / controller, mounts / controllers)
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        for base in dict.fromkeys(bases):
            yield from (base / part for part in (inner, *inner.parents))


def _inactive_cache(folder: Path) -> int:
    for line in _lines(folder / "memory.stat"):
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0


def _words(file: Path) -> list[str]:
    lines = _lines(file)
    return lines[0].split() if lines else []


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # not there, or not ours to read: no limit that we know of
        return []
