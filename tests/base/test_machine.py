"""What a process may use: its affinity, its containers' limits, of either version of control groups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas.base import machine
from nas.base.machine import available_cores, available_memory
from tests.helpers import needs
from tests.helpers.commands import ROOT

GIB = 2**30
LIMITS = {
    "2: the container's own": ("0::/", {"cpu.max": "200000 100000"}, 2),
    "2: without": ("0::/", {"cpu.max": "max 100000"}, 64),
    "2: of a group": ("0::/a/b", {"a/b/cpu.max": "300000 100000"}, 3),
    "2: of a group above": ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1),
    "2: less than one": ("0::/", {"cpu.max": "20000 100000"}, 1),
    "2: seen from within a namespace": ("0::/../x", {"cpu.max": "200000 100000"}, 2),
    "1": ("4:cpu,cpuacct:/d", {"cpu/d/cpu.cfs_quota_us": "500000", "cpu/d/cpu.cfs_period_us": "100000"}, 5),
    "1: the mount is the group": ("1:cpu:/d", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "25000"}, 2),
    "1: without": ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
    "1: of cpusets": ("3:cpuset:/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 64),
    "no such files": ("0::/", {}, 64),
    "damaged": ("nonsense", {"cpu.max": ""}, 64),
}


def made(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A machine with these control groups."""
    files = {**{f"sys/fs/cgroup/{name}": text for name, text in files.items()}, "proc/self/cgroup": groups + "\n"}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("case", LIMITS)
def test_cores_within_the_containers_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    groups, files, cores = LIMITS[case]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 64, raising=False)
    assert available_cores(made(tmp_path, groups, files)) == cores


@needs.affinity
def test_cores_within_the_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); import nas.base.machine as m; "
    code += "from nas.runs.workers.processes import default_workers; print(m.available_cores(), default_workers('cpu'))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.split() == ["1", "1"], ran.stderr


ROOMS = {
    "2": (
        "0::/",
        {"memory.max": str(4 * GIB), "memory.current": str(GIB), "memory.stat": "anon 1\ninactive_file 0"},
        3,
    ),
    "2: files in memory": (
        "0::/a",
        {"a/memory.max": str(4 * GIB), "a/memory.current": str(2 * GIB), "a/memory.stat": f"inactive_file {GIB}"},
        3,
    ),
    "2: a group above": (
        "0::/a/b",
        {"a/memory.max": str(GIB), "a/memory.current": "0", "a/memory.stat": "", "a/b/memory.max": "max"},
        1,
    ),
    "1": (
        "4:memory:/d",
        {
            "memory/d/memory.limit_in_bytes": str(3 * GIB),
            "memory/d/memory.usage_in_bytes": str(2 * GIB),
            "memory/d/memory.stat": f"cache 1\ntotal_inactive_file {GIB}",
        },
        2,
    ),
    "1: without": ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 8),
    "2: used up": ("0::/", {"memory.max": "10", "memory.current": "20", "memory.stat": ""}, 0),
    "none": ("", {}, 8),
}


@pytest.mark.parametrize("case", ROOMS)
def test_memory_within_the_containers_limit(tmp_path: Path, case: str) -> None:
    groups, files, gib = ROOMS[case]
    root = made(tmp_path, groups, files)
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {8 * GIB // 1024} kB\n")
    assert available_memory(root) == gib * GIB


def test_torch_gets_no_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 3)
    before = torch.get_num_threads()
    with machine.torch_threads(5):
        assert machine.default_threads() == 3
    with machine.torch_threads(2):
        assert machine.default_threads() == 2
    assert torch.get_num_threads() == before
