"""Workers on the nodes of a Ray cluster: an actor is a process that trains one job after the other.

A thread here keeps each actor, hands it the jobs that wait, and looks for another when it is lost, wherever there is
room. Data goes by its name or path: a node decodes or downloads it once, and each actor keeps it in memory.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Thread
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from nas import datasets
from nas.base.errors import RunFailed, UserError
from nas.datasets import Source
from nas.runs.workers.processes import ATTEMPTS, Submit, trained_again
from nas.training.monitor import Progress
from nas.training.proxy import Failed, Job, Proxy, Report, Result, load_data, run_job

PATIENCE = 10.0  # seconds to reach the cluster, and between looks whether a node has room for an actor that waits
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Share:
    """What a trial has of a cluster: CPUs, which are its threads, and GPUs, from 0 to 1."""

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
        try:  # Ray itself would try for long, aloud
            socket.create_connection((place[1], int(place[2])), PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--ray {address}: nothing answers there ({error}); {remedy}") from None
    try:
        with _unheard():
            ray.init(address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # of many kinds: no cluster, other versions, no node on this machine
        raise UserError(
            f"--ray {address}: no Ray cluster can be joined ({' '.join(str(error).split())[:300]}); {remedy}"
        ) from None
    return str(ray.get_runtime_context().gcs_address)


@contextmanager
def _unheard() -> Iterator[None]:
    """Drop what this process and its libraries write to stderr: Ray's own tries to connect, a line a second."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def pool(proxy: Proxy, workers: int, report: Report, share: Share) -> Iterator[Submit]:
    """As `nas.runs.workers.Workers.pool`, on the cluster that this process is connected to.

    Raises RunFailed from a job's future where no node is left that has room, and UserError where a node's data is
    not that of this machine.
    """
    waiting: SimpleQueue[_Work | None] = SimpleQueue()
    spread = replace(proxy, data=_anywhere(proxy.data))
    places = [_Place(spread, share, report, waiting) for _ in range(workers)]
    for place in places:
        place.start()

    def submit(job: Job) -> Future[Result]:
        work = _Work(job, Future())
        waiting.put(work)
        return work.future

    try:
        yield submit
    finally:  # after a mistake or Ctrl-C, nobody waits for a training
        for place in places:
            place.closing = True
            waiting.put(None)
        for place in places:
            place.close()


def _anywhere(data: Source) -> Source:
    """A data set as a process names it that was started in another folder."""
    known = data.name in datasets.LOADERS
    return data if known else replace(data, name=os.path.abspath(os.path.expanduser(data.name)))


@dataclass(frozen=True)
class _Work:
    """A job, and where its result goes. lost: how many trainings of it have lost their worker."""

    job: Job
    future: Future[Result]
    lost: int = 0


class _Place(Thread):
    """Keeps an actor in the cluster and trains on it what waits; looks for another when it is lost.

    An actor that finds no room yet keeps no job, so what waits is trained where there is room.
    """

    def __init__(self, proxy: Proxy, share: Share, report: Report, waiting: SimpleQueue[_Work | None]) -> None:
        super().__init__(daemon=True)
        self.proxy, self.share = proxy, share
        self.report, self.waiting = report, waiting
        self.trainer: Any = None
        self.closing = False

    def run(self) -> None:
        """Train until there is nothing more to do; an error that prevents it becomes the result of a job."""
        try:
            lost = 0  # actors in a row, before they could train
            while not self.closing:
                try:
                    self.settle()
                    lost = 0
                    while work := self.waiting.get():
                        self.train(work)
                    return
                except RayError as error:
                    lost += 1
                    if lost > ATTEMPTS and not self.closing:
                        raise RunFailed(
                            f"Ray cannot start a process for trials ({str(error).splitlines()[-1][:200]}); "
                            "every node needs the same compound-nas, its packages and memory for it"
                        ) from None
        except Exception as error:
            if work := self.waiting.get():
                work.future.set_exception(error)
        finally:
            self.dismiss()

    def settle(self) -> None:
        """Start an actor, and wait until it has room and has loaded the data."""
        self.dismiss()
        options = {
            "num_cpus": self.share.cpus_per_trial,
            "num_gpus": self.share.gpus_per_trial,
            "scheduling_strategy": "SPREAD",
        }
        self.trainer = ray.remote(Trainer).options(**options).remote(self.proxy, self.share.cpus_per_trial)
        ready = self.trainer.load.remote()
        while not ray.wait([ready], timeout=PATIENCE)[0]:
            if not self.share.room():
                raise RunFailed(
                    "no node of the Ray cluster has room for a trial any more; what was finished is kept, "
                    "the same command continues the run when there are nodes again"
                )
        try:
            ray.get(ready)
        except RayTaskError as error:
            raise error.cause from None

    def train(self, work: _Work) -> None:
        """Train a job and set its future's result. Raises RayError if the actor is lost; the job waits again once."""
        lost = work.lost
        try:
            ray.get(self.trainer.__ray_ready__.remote())  # one that was lost while it was idle is no loss of the job's
            lost += 1
            for answer in self.trainer.train.remote(work.job):
                message = ray.get(answer)
                if isinstance(message, Progress):
                    self.report(work.job, message)
            work.future.set_result(trained_again(message, "its worker was lost") if work.lost else message)
        except RayTaskError as error:
            work.future.set_exception(error.cause)
        except RayError:
            if self.closing:
                work.future.cancel()
            elif lost < ATTEMPTS:
                self.waiting.put(replace(work, lost=lost))
            else:
                cause = "out of memory, a crash, or a node that is gone"
                work.future.set_result(Failed(f"its worker was lost {ATTEMPTS} times ({cause})"))
            raise

    def dismiss(self) -> None:
        """End the actor, if there is one, whatever it does."""
        if self.trainer is not None:
            with suppress(RayError):
                ray.kill(self.trainer)

    def close(self) -> None:
        """End the actor and then the thread."""
        while self.is_alive():
            self.dismiss()
            self.join(0.2)


class Trainer:
    """The actor: a process on a node that trains one job at a time, always with as many threads."""

    def __init__(self, proxy: Proxy, threads: int) -> None:
        self.proxy = proxy
        self.thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    def load(self) -> None:
        """Load the data; raises UserError where it is not there, or is not what it is where the command was started."""
        try:
            load_data(self.proxy.data)
        except UserError as error:
            raise UserError(f"on the Ray node {platform.node()}: {error}") from None

    def train(self, job: Job) -> Iterator[Progress | Result]:
        """Train a job: gives its progress as it goes on, and at last its result."""
        messages: SimpleQueue[Progress | Future[Result]] = SimpleQueue()
        ended = self.thread.submit(run_job, self.proxy, job, lambda _, progress: messages.put(progress))
        ended.add_done_callback(messages.put)
        while isinstance(item := messages.get(), Progress):
            yield item
        yield ended.result()
