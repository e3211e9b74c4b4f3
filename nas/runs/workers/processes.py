"""Workers on this machine: this process alone, or processes side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from threading import Thread

import torch

from nas.base.errors import UserError
from nas.base.machine import available_cores, default_threads, keep_freed_memory, torch_threads
from nas.devices.device import pick_device
from nas.runs.workers.pool import Lost, Submit, worker_pool
from nas.training.monitor import Progress
from nas.training.proxy import Job, Proxy, Report, Result, run_job

MOST_WORKERS = 4  # by default: with more, the sampler knows fewer results when it proposes


def default_workers(device: str) -> int:
    """The default number of trials side by side: one per GPU; on the CPU one per core, up to MOST_WORKERS.

    Small networks leave a second core partly idle: two trials on a core each are done sooner than one after the other
    on both (`experiments/proxy_throughput`).
    """
    if device == "cpu":
        return min(MOST_WORKERS, available_cores())
    return max(1, torch.cuda.device_count()) if device == "cuda" else 1


def shared_device(name: str) -> str:
    """The device as workers get it: auto and cuda mean every GPU there is. Raises UserError as `pick_device`."""
    picked = pick_device(name)
    return picked.type if name in ("auto", "cuda") else str(picked)


@contextmanager
def pool(proxy: Proxy, workers: int, report: Report) -> Iterator[Submit]:
    """Yield a function that takes a job, trains up to `workers` at a time, and returns the future of its result.

    One worker is this process, and a job is done when the function returns. More are spawned processes, each with an
    equal share of the cores, and with one GPU after the other where the device is cuda. A job whose process dies is
    trained once more in a new one; then it is Failed. `report` is called while jobs are done, from other threads.
    """
    if workers > 1:
        threads = max(1, available_cores() // workers)
        gpus = torch.cuda.device_count() if proxy.device == "cuda" else 0
        shares = [replace(proxy, device=f"cuda:{i % gpus}") if gpus else proxy for i in range(workers)]
        with worker_pool([ProcessWorker(share, threads, report) for share in shares]) as submit:
            yield submit
        return

    def train_here(job: Job) -> Future[Result]:
        future: Future[Result] = Future()
        future.set_result(run_job(proxy, job, report))
        return future

    with torch_threads(default_threads()):
        yield train_here


class ProcessWorker:
    """A spawned process that trains one job after the other; a new one is started when it has died."""

    def __init__(self, proxy: Proxy, threads: int, report: Report) -> None:
        self.proxy, self.threads, self.report = proxy, threads, report
        self.process: SpawnProcess | None = None

    def train(self, job: Job) -> Result:
        """Train a job; raises Lost, and what the training or the report raises."""
        if not self.process or not self.process.is_alive():  # a process that died idle has lost no job
            self._start()
        with suppress(OSError):  # it has died: nothing will be received
            self.pipe.send(job)
        try:
            while isinstance(answer := self._receive(), Progress):
                self.report(job, answer)
        except BaseException:
            self.kill()  # what it sends from now on would be taken for an answer to the next job
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self.proxy, self.threads, theirs), daemon=True)
        process.start()
        theirs.close()  # so that its end is noticed here
        self.process = process

    def _receive(self) -> Progress | Result | Exception:
        try:
            answer: Progress | Result | Exception = self.pipe.recv()
        except (EOFError, OSError):
            raise Lost("out of memory, or a crash") from None
        return answer

    def kill(self) -> None:
        """End the process, if there is one."""
        if self.process:
            self.process.kill()
            self.process.join()


def _serve(proxy: Proxy, threads: int, pipe: Connection) -> None:
    """The loop of a worker process: the parent handles Ctrl-C, and the worker ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    with suppress(EOFError, OSError):  # the parent has ended
        while True:
            job = pipe.recv()
            try:
                answer: Result | Exception = run_job(proxy, job, lambda _, progress: pipe.send(progress))
            except UserError as error:
                answer = UserError(str(error))  # one of a class that takes other arguments could not be sent
            pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
