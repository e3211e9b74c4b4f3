"""The cores and memory that this process may use, within its affinity and its container's limits."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path, PurePosixPath

import torch

ROOT = Path("/")
UNLIMITED = 2**62
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def available_cores(root: Path = ROOT) -> int:
    """Number of cores that this process may use: its CPU affinity (taskset, SLURM), limited by container quotas.

    Quotas are rounded down (2.5 cores count as 2), but at least to 1. root: where /proc and /sys are found.
    """
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        cores = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, int(min(cores, *map(_quota, _groups("cpu", root)), inf)))


def available_memory(root: Path = ROOT) -> int:
    """Bytes of free memory (Linux) or of installed memory (elsewhere); practically unlimited if unknown.

    In a container, at most what its limit leaves. root: where /proc and /sys are found.
    """
    free = min(UNLIMITED, *map(_room, _groups("memory", root)), UNLIMITED)
    with suppress(OSError, IndexError):
        return min(free, int((root / "proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024)
    with suppress(AttributeError, OSError, ValueError):
        return min(free, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return free


def default_threads() -> int:
    """Number of threads for torch in this process: torch's default, limited to the available cores."""
    return min(torch.get_num_threads(), available_cores())


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads, and the previous number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where its C library is glibc.

    Else each step of a training gets its tensors from the system anew, which takes a tenth of its time on a CPU.
    """
    with suppress(OSError, AttributeError):  # another library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The directories of this process's control group and its ancestors, for cgroup v1 (of `controller`) and v2.

    A container may see its own group as the root of /sys/fs/cgroup, so directories need not exist.
    """
    mount = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            parts = [part for part in PurePosixPath(group).parts if part not in ("/", "..")]
            for depth in range(len(parts), -1, -1):
                yield (mount / controller if controllers else mount).joinpath(*parts[:depth])


def _quota(group: Path) -> float:
    """The CPU quota of a control group in cores; infinite without a limit."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()  # "max 100000" without a limit
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else inf
    return inf


def _room(group: Path) -> int:
    """Bytes that a control group may still use; the kernel's file cache counts as free."""
    for limit, usage, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            most, used = (int((group / file).read_text()) for file in (limit, usage))
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return max(0, most - used + int(statistics.get(cached, 0)))
    return UNLIMITED
