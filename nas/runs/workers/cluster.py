"""Workers on the nodes of a Ray cluster: each training is a task of Ray's.

Data goes by its name or path: a node decodes or downloads it once, and a process keeps it in memory. Ray ends a process
that trained on a GPU after its job; others take one job after another.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from nas import datasets
from nas.base.errors import RunFailed, UserError, first_line
from nas.datasets import Source, load_data
from nas.runs.workers.pool import Lost, Submit, worker_pool
from nas.training.monitor import Progress
from nas.training.proxy import Job, Proxy, Report, Result, run_job

PATIENCE = 10.0  # seconds to reach the cluster, and between checks for room for a waiting job
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Share:
    """A trial's share of a cluster: CPUs, which are its threads, and GPUs, from 0 to 1."""

    address: str
    cpus_per_trial: int
    gpus_per_trial: float

    def room(self) -> int:
        """How many trials the nodes that are alive can train side by side; no trial has parts of two GPUs."""
        found = 0
        for node in _nodes():
            places = int(node.get("CPU", 0)) // self.cpus_per_trial
            if self.gpus_per_trial:
                places = min(places, int(node.get("GPU", 0)) * int(1 / self.gpus_per_trial))
            found += places
        return found

    def __str__(self) -> str:
        gpus = f" and {self.gpus_per_trial:g} GPU" if self.gpus_per_trial else ""
        return f"each with {self.cpus_per_trial} CPU{gpus} of the Ray cluster {self.address}"


def join(address: str, device: str, workers: int | None, gpus_per_trial: float | None) -> tuple[str, Share, int]:
    """Connect to a cluster; returns the kind of device to train on, a trial's share, and how many trials have room.

    A trial has one CPU; where it trains on CPUs and the number of workers is given, as many as they all can have.
    Raises UserError where the cluster is out of reach or has no room for them.
    """
    if device not in DEVICES:
        raise UserError(f"--device {device[:40]}: with --ray it is {', '.join(DEVICES)}, and Ray says which GPU")
    if device == "cpu" and gpus_per_trial is not None:
        raise UserError("--gpus-per-trial and --device cpu exclude each other; leave out one of them")
    found = _connected(address)
    gpus = any(node.get("GPU") for node in _nodes())
    if not gpus and (device == "cuda" or gpus_per_trial is not None):
        option = "--device cuda" if gpus_per_trial is None else f"--gpus-per-trial {gpus_per_trial:g}"
        raise UserError(f"{option}: no node of the Ray cluster {found} has a GPU; leave it out")
    where = "cuda" if gpus and device != "cpu" else "cpu"
    share = Share(found, 1, 0.0 if where == "cpu" else gpus_per_trial or 1.0)
    if (room := share.room()) < (workers or 1):
        asked = f"--workers {workers}" if workers else "--ray"
        raise UserError(f"{asked}: {room} trials, {share}, have room; start more nodes, or ask for less")
    more = share
    while where == "cpu" and workers and more.room() >= workers:
        share, more = more, replace(more, cpus_per_trial=more.cpus_per_trial + 1)
    return where, share, room


def _connected(address: str) -> str:
    """Connect to a cluster that this machine is a node of; returns its HOST:PORT. Raises UserError if there is none."""
    remedy = "start nodes with `ray start`, and this command on one of them"
    if address != "auto":
        place = re.fullmatch(r"([^\s:/]+):(\d{1,5})", address)
        if not place:
            raise UserError(f"--ray {address[:60]!r}: give auto, or the cluster's HOST:PORT, such as 10.0.0.1:6379")
        try:  # Ray itself would try for minutes
            socket.create_connection((place[1], int(place[2])), PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--ray {address}: nothing answers there ({error}); {remedy}") from None
    try:
        ray.init(address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # of many kinds: no cluster, other versions, no node on this machine
        raise UserError(
            f"--ray {address}: no Ray cluster can be joined ({' '.join(str(error).split())[:300]}); {remedy}"
        ) from None
    return str(ray.get_runtime_context().gcs_address)


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def pool(proxy: Proxy, workers: int, report: Report, share: Share) -> AbstractContextManager[Submit]:
    """As `nas.runs.workers.Workers.pool`, on the cluster that this process is connected to.

    Raises RunFailed from a job's future where no node is left that can train, and UserError where a node's data is not
    that of this machine.
    """
    everywhere = replace(proxy, data=_everywhere(proxy.data))
    return worker_pool([RayWorker(everywhere, share, report) for _ in range(workers)])


def _everywhere(data: Source) -> Source:
    """A data set by a name that does not depend on the working directory."""
    known = data.name in datasets.LOADERS
    return data if known else replace(data, name=os.path.abspath(os.path.expanduser(data.name)))


class RayWorker:
    """Trains a job as a task of Ray's, on whichever node has room."""

    def __init__(self, proxy: Proxy, share: Share, report: Report) -> None:
        self.proxy, self.share, self.report = proxy, share, report
        self.messages: Any = None
        self.start = ray.remote(
            num_cpus=share.cpus_per_trial,
            num_gpus=share.gpus_per_trial,
            scheduling_strategy="SPREAD",
            max_retries=0,  # `worker_pool` repeats it, and notes that it did
        )(train_on_node)

    def train(self, job: Job) -> Result:
        """Train a job; raises Lost, and what the training raises, RunFailed where no node can train."""
        self.messages = self.start.remote(self.proxy, job, self.share.cpus_per_trial)
        while not ray.wait([self.messages], timeout=PATIENCE)[0]:
            if not self.share.room():
                raise RunFailed(
                    "no node of the Ray cluster has room for a trial any more; what was finished is kept, "
                    "the same command continues the run when there are nodes again"
                )
        message: Any = None
        try:
            for answer in self.messages:
                message = ray.get(answer)
                if isinstance(message, Progress):
                    self.report(job, message)
        except RayTaskError as error:
            if message or isinstance(error.cause, UserError):
                raise error.cause from None
            raise RunFailed(
                f"a node of the Ray cluster cannot train ({first_line(error.cause)}); every node needs the same "
                "compound-nas and its packages"
            ) from None
        except RayError:
            raise Lost("out of memory, a crash, or a node that is gone") from None
        return message  # type: ignore[no-any-return]

    def kill(self) -> None:
        """End the task, if there is one."""
        if self.messages is not None:
            ray.cancel(self.messages, force=True)


def train_on_node(proxy: Proxy, job: Job, threads: int) -> Iterator[str | Progress | Result]:
    """Train a job in this process: yields a message at the start, then its progress, and finally its result.

    Raises UserError if the data is missing, or differs from that of the machine that started the command.
    """
    try:
        load_data(proxy.data)
    except UserError as error:
        raise UserError(f"on the Ray node {platform.node()}: {error}") from None
    yield "begun"
    messages: SimpleQueue[Progress | Future[Result]] = SimpleQueue()
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as thread:
        ended = thread.submit(run_job, proxy, job, lambda _, progress: messages.put(progress))
        ended.add_done_callback(messages.put)
        while isinstance(message := messages.get(), Progress):
            yield message
        yield ended.result()
