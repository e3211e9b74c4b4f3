"""Workers on this machine: this process alone, or spawned ones side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as ready
from threading import Event, Thread

import torch

from nas.evaluate import Failed, Job, Proxy, Report, Result, evaluate
from nas.proxy import Progress, pick_device

MOST_WORKERS = 4  # by default: each more lets the sampler know less of what it proposes next
ATTEMPTS = 2  # trainings of a job whose worker dies

Submit = Callable[[Job], "Future[Result]"]


def default_workers(device: str) -> int:
    """Trials side by side: one on each GPU; on the CPU one per core, but no more than the sampler can do with.

    Small networks leave a second core partly idle: two trials on a core each are done sooner than one after the other
    on both (`experiments/proxy_throughput`).
    """
    if device == "cpu":
        return min(MOST_WORKERS, os.cpu_count() or 1)
    return max(1, torch.cuda.device_count()) if device == "cuda" else 1


def shared_device(name: str) -> str:
    """The device that workers are told of: auto and cuda mean every GPU there is. Raises UserError as `pick_device`."""
    picked = pick_device(name)
    return picked.type if name in ("auto", "cuda") else str(picked)


@contextmanager
def pool(proxy: Proxy, workers: int, report: Report) -> Iterator[Submit]:
    """Give a function that takes a job, up to `workers` at a time, and returns the future of its result.

    One worker is this process, and a job is done when the function returns. More are spawned processes, each with an
    equal share of the cores, and with one GPU after the other where the device is cuda. A job whose process dies is
    given to a new one once; then it is Failed. `report` is called while jobs are done, from another thread.
    """
    if workers == 1:
        yield lambda job: _ended(evaluate(proxy, job, report))
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    gpus = torch.cuda.device_count() if proxy.device == "cuda" else 0
    shares = [replace(proxy, device=f"cuda:{i % gpus}") if gpus else proxy for i in range(workers)]
    idle: list[Worker] = []
    everyone = [Worker(share, threads, report, idle) for share in shares]
    idle += reversed(everyone)

    def submit(job: Job) -> Future[Result]:
        future: Future[Result] = Future()
        idle.pop().train(job, future, 1)
        return future

    try:
        yield submit
    except BaseException:  # after a mistake or Ctrl-C, nobody waits for a training
        for worker in everyone:
            worker.closing = True
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        for worker in everyone:
            worker.stop()


def trained_again(result: Result, cause: str) -> Result:
    """The result of a job that was trained again, with a note that says so."""
    if isinstance(result, Failed):
        return result
    return replace(result, note="; ".join(filter(None, (result.note, f"trained again, for {cause}"))))


def _ended(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


class Worker:
    """A spawned process that trains one job at a time; another is started in its place if it dies.

    It is in `idle` again before a job's result is known, for then the next job may come.
    """

    def __init__(self, proxy: Proxy, threads: int, report: Report, idle: list[Worker]) -> None:
        self.proxy, self.threads, self.report, self.idle = proxy, threads, report, idle
        self.process: ProcessPoolExecutor | None = None
        self.closing = False
        self.silent = Event()  # set when there is nothing to listen to any more

    def start(self) -> ProcessPoolExecutor:
        """A new process, and a thread that passes on what it reports."""
        context = multiprocessing.get_context("spawn")
        inbox, outbox = context.Pipe(duplex=False)
        self.silent = Event()
        Thread(target=_listen, args=(inbox, self.report, self.silent), daemon=True).start()
        return ProcessPoolExecutor(1, context, _start, (self.threads, outbox))

    def train(self, job: Job, future: Future[Result], attempt: int) -> None:
        """Train, and set the future's result; once more if the process dies."""
        try:
            inner = self._submit(job)
        except BrokenProcessPool:  # it died while it was idle, which is no loss of the job's
            self.stop(wait=False)
            inner = self._submit(job)
        inner.add_done_callback(partial(self._trained, job, future, attempt))

    def _submit(self, job: Job) -> Future[Result]:
        self.process = self.process or self.start()
        return self.process.submit(evaluate, self.proxy, job, _send)

    def _trained(self, job: Job, future: Future[Result], attempt: int, inner: Future[Result]) -> None:
        error = None if inner.cancelled() else inner.exception()
        died = isinstance(error, BrokenProcessPool)
        if inner.cancelled() or (died and self.closing):
            future.cancel()
            return
        if died:
            self.stop(wait=False)
            if attempt < ATTEMPTS:
                self.train(job, future, attempt + 1)
                return
        self.idle.append(self)
        if died:
            future.set_result(Failed(f"its worker process died {ATTEMPTS} times (out of memory, or a crash)"))
        elif error:
            future.set_exception(error)
        else:
            result = inner.result()
            future.set_result(trained_again(result, "its worker process died") if attempt > 1 else result)

    def stop(self, wait: bool = True) -> None:
        """End the process, when its job is done."""
        if self.process:
            self.process.shutdown(wait, cancel_futures=True)
            self.process = None
        self.silent.set()


def _listen(inbox: Connection, report: Report, silent: Event) -> None:
    """Pass on what a worker sends, while it lives."""
    while not silent.is_set():
        if ready([inbox], 0.2):
            try:
                job, progress = inbox.recv()
            except (EOFError, OSError):
                return
            report(job, progress)


_outbox: list[Connection] = []  # in a worker process: its end of the pipe


def _start(threads: int, outbox: Connection) -> None:
    """Called once in each worker process: Ctrl-C is the parent's to answer, and a worker ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _outbox.append(outbox)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _send(job: Job, progress: Progress) -> None:
    _outbox[0].send((job, progress))
