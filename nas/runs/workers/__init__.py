"""Trainings side by side: each in a process of its own, on this machine or on the nodes of a Ray cluster.

A process may die without harm to the others. `processes` are those of this machine, `cluster` is Ray's, which is
imported only when it is asked for.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nas.base.errors import UserError, check_installed
from nas.datasets import Stored, load_data
from nas.runs.workers import processes
from nas.runs.workers.pool import Submit, trained_again
from nas.training.proxy import Proxy, Report

if TYPE_CHECKING:
    from nas.runs.workers.cluster import Share

__all__ = ["Submit", "Workers", "make_workers", "trained_again"]


@dataclass(frozen=True)
class Workers:
    """Where trials are trained: `count` side by side on a kind of device, in processes here or on a Ray cluster.

    device: cpu, mps, cuda (all GPUs) or cuda:N (one of them). share: of the cluster, for each trial; None without one.
    """

    count: int
    device: str
    share: Share | None = None

    def pool(self, proxy: Proxy, report: Report) -> AbstractContextManager[Submit]:
        """Yield a function that takes a job, up to `count` at a time, and returns the future of its result.

        A job whose worker dies is given to another once; then it is Failed. `report` is called while jobs are done,
        from other threads.
        """
        if self.share is None:
            return processes.pool(for_other_processes(proxy) if self.count > 1 else proxy, self.count, report)
        from nas.runs.workers import cluster

        return cluster.pool(for_other_processes(proxy), self.count, report, self.share)

    def __str__(self) -> str:
        where = f", {self.share}" if self.share else ""
        return f"on {self.device}, workers: {self.count}{where}"

    @property
    def place(self) -> str:
        """The place of training, for display."""
        return "the nodes of the Ray cluster" if self.share else "this machine"

    def table(self) -> dict[str, Any] | None:
        """The entry on the Ray cluster in run.toml; None without one."""
        return asdict(self.share) if self.share else None

    def check_here(self, option: str) -> None:
        """Raise UserError for an option that measures on this machine if only the cluster has GPUs."""
        if self.share and self.device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"{option}: latency is measured on this machine, which has no GPU, while the Ray cluster trains on "
                f"GPUs; start the command on a node that has one, or do without"
            )


def for_other_processes(proxy: Proxy) -> Proxy:
    """The proxy for other processes: they read the decoded images from the cache, and do not look at image files.

    Where they do not find these they load the data themselves, and compare its fingerprint.
    """
    found = load_data(proxy.data)
    stored = found.stored or Stored(Path(), "", found.fingerprint)
    return replace(proxy, data=replace(proxy.data, stored=stored, recheck=False))


def make_workers(
    device: str, workers: int | None = None, ray: str | None = None, gpus_per_trial: float | None = None
) -> Workers:
    """The workers that the options --device, --workers, --ray and --gpus-per-trial ask for; raises UserError.

    By default as many as `processes.default_workers` says, or as have room in the cluster.
    """
    if ray is None:
        if gpus_per_trial is not None:
            raise UserError("--gpus-per-trial: is for trials on a Ray cluster; give --ray as well, or leave it out")
        where = processes.shared_device(device)
        return Workers(workers or processes.default_workers(where), where)
    check_installed("--ray", "ray", "ray")
    from nas.runs.workers import cluster

    where, share, room = cluster.join(ray, device, workers, gpus_per_trial)
    return Workers(workers or room, where, share)
