"""Workers on this machine: this process alone, or spawned ones side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from threading import Thread

import torch

from nas.base.errors import UserError
from nas.base.machine import available_cores, default_threads, torch_threads
from nas.devices.device import pick_device
from nas.training.monitor import Progress
from nas.training.proxy import Failed, Job, Proxy, Report, Result, run_job

MOST_WORKERS = 4  # by default: each more lets the sampler know less of what it proposes next
ATTEMPTS = 2  # trainings of a job whose worker dies

PATIENCE = 10  # seconds that an idle process may take to end

Submit = Callable[[Job], "Future[Result]"]
Work = tuple[Job, "Future[Result]"]


def default_workers(device: str) -> int:
    """Trials side by side: one on each GPU; on the CPU one per core, but no more than the sampler can do with.

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
    """Give a function that takes a job, trains up to `workers` at a time, and returns the future of its result.

    One worker is this process, and a job is done when the function returns. More are spawned processes, each with an
    equal share of the cores, and with one GPU after the other where the device is cuda. A job whose process dies is
    trained once more in a new one; then it is Failed. `report` is called while jobs are done, from other threads.
    """
    if workers == 1:
        with torch_threads(default_threads()):
            yield lambda job: _ended(run_job(proxy, job, report))
        return
    threads = max(1, available_cores() // workers)
    gpus = torch.cuda.device_count() if proxy.device == "cuda" else 0
    shares = [replace(proxy, device=f"cuda:{i % gpus}") if gpus else proxy for i in range(workers)]
    waiting: SimpleQueue[Work | None] = SimpleQueue()
    everyone = [Worker(share, threads, report, waiting) for share in shares]
    for worker in everyone:
        worker.start()

    def submit(job: Job) -> Future[Result]:
        future: Future[Result] = Future()
        waiting.put((job, future))
        return future

    hurry = True
    try:
        yield submit
        hurry = False
    finally:  # after a mistake or Ctrl-C, nobody waits for a training
        for worker in everyone:
            worker.closing = hurry
            waiting.put(None)
        for worker in everyone:
            worker.close()


def trained_again(result: Result, cause: str) -> Result:
    """The result of a job that was trained again, with a note that says so."""
    if isinstance(result, Failed):
        return result
    return replace(result, note="; ".join(filter(None, (result.note, f"trained again, for {cause}"))))


def _ended(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


class _Died(Exception):
    """A worker's process is gone."""


class Worker(Thread):
    """Trains what waits, one job at a time, in a spawned process; another is started in its place if it dies."""

    def __init__(self, proxy: Proxy, threads: int, report: Report, waiting: SimpleQueue[Work | None]) -> None:
        super().__init__(daemon=True)
        self.proxy, self.threads, self.report, self.waiting = proxy, threads, report, waiting
        self.process: SpawnProcess | None = None
        self.closing = False  # set when nobody waits for results any more

    def run(self) -> None:
        """Train until there is nothing more to do."""
        while work := self.waiting.get():
            self.train(*work)
        self.stop()

    def train(self, job: Job, future: Future[Result]) -> None:
        """Train, and set the future's result; once more if the process dies."""
        for attempt in range(1, ATTEMPTS + 1):
            if self.closing:
                break
            try:
                result = self._trained(job)
            except _Died:
                self.stop()
                continue
            except Exception as error:  # a job that cannot be sent, a report that fails
                self.stop()
                result = error
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(trained_again(result, "its worker process died") if attempt > 1 else result)
            return
        if self.closing:
            future.cancel()
        else:
            future.set_result(Failed(f"its worker process died {ATTEMPTS} times (out of memory, or a crash)"))

    def _trained(self, job: Job) -> Result | Exception:
        """What the process makes of a job, or what it raised; raises _Died if it dies meanwhile."""
        if not self.process or not self.process.is_alive():  # one that died while it was idle is no loss of the job's
            self.stop()
            self._start()
        try:
            self.pipe.send(job)
        except OSError:
            raise _Died from None
        while isinstance(answer := self._received(), Progress):
            self.report(job, answer)
        return answer

    def _received(self) -> Progress | Result | Exception:
        try:
            answer: Progress | Result | Exception = self.pipe.recv()
        except (EOFError, OSError):
            raise _Died from None
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.proxy, self.threads, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is heard of here

    def stop(self) -> None:
        """End the process: at once if it is idle."""
        if self.process:
            self.pipe.close()
            self.process.join(PATIENCE)
            self.process.kill()
            self.process.join()
            self.process = None

    def close(self) -> None:
        """End the thread and the process: when nothing waits any more, or at once if `closing`."""
        while self.is_alive():
            if self.closing and (process := self.process):
                process.kill()
            self.join(0.2)


def _serve(proxy: Proxy, threads: int, pipe: Connection) -> None:
    """A worker process: Ctrl-C is the parent's to answer, and the worker ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # the parent wants no more
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
