"""How many processor cores this process may use, which on a shared machine are fewer than it has. Imports nothing of the toolkit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


def cores() -> int:
    """Those that the scheduler or ``taskset`` binds it to, cut by the quota of its control group (``docker --cpus``); at least 1."""
    return max(1, min([bound(), *(int(quota) for quota in _quotas())]))


def bound() -> int:
    """The cores that this process may run on, whatever share of their time it gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """The limits, in cores, of the process's control group and of those above it; of both versions (docs: cgroup-v2, sched-bwc)."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:  # no Linux, or no /proc
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _above(_MOUNTED, path):
                yield from _quota(_read(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for mounted in (_MOUNTED / controllers, _MOUNTED / "cpu"):
                for folder in _above(mounted, path):
                    yield from _quota([*_read(folder / "cpu.cfs_quota_us"), *_read(folder / "cpu.cfs_period_us")])


def _above(mounted: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it; in a container the group may be named as on its host, and only the mount itself exists."""
    inside = Path(path.lstrip("/"))
    yield from (mounted / part for part in (inside, *inside.parents))


def _quota(words: list[str]) -> Iterator[float]:
    """(microseconds of a period, the period) as a number of cores; ``max`` and -1 are no limit."""
    if len(words) == 2 and words[0] not in ("max", "-1") and float(words[1]) > 0:
        yield float(words[0]) / float(words[1])


def _read(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
