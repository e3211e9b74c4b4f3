"""Jobs trained side by side, by workers that may be lost without harm to the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from threading import Event
from typing import Protocol

from nas.training.proxy import Failed, Job, Result

ATTEMPTS = 2  # trainings of a job whose worker is lost

Submit = Callable[[Job], "Future[Result]"]


class Lost(Exception):
    """A worker died while it trained; the message names likely causes."""


class Worker(Protocol):
    """Trains one job at a time, and may be used again after it was lost."""

    def train(self, job: Job) -> Result:
        """Train a job; raises Lost, and what the training raises."""

    def kill(self) -> None:
        """End the worker at once; called from another thread."""


@contextmanager
def worker_pool(workers: Sequence[Worker]) -> Iterator[Submit]:
    """Yield a function that takes a job, trains it when a worker is free, and returns the future of its result.

    A job whose worker is lost is trained once more; then it is Failed. After an error or Ctrl-C nothing is waited for.
    """
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)
    closing = Event()

    def train(job: Job) -> Result:
        worker = free.get()
        cause = ""
        try:
            for attempt in range(ATTEMPTS):
                if closing.is_set():
                    raise CancelledError
                try:
                    result = worker.train(job)
                except Lost as error:
                    cause = str(error)
                    continue
                return trained_again(result) if attempt else result
            return Failed(f"its worker was lost {ATTEMPTS} times ({cause})")
        finally:
            free.put(worker)

    threads = ThreadPoolExecutor(len(workers))
    try:
        yield lambda job: threads.submit(train, job)
        threads.shutdown()
    finally:
        closing.set()
        threads.shutdown(wait=False, cancel_futures=True)
        while free.qsize() < len(workers):  # a worker may just be starting, so once is not enough
            for worker in workers:
                worker.kill()
            time.sleep(0.1)
        for worker in workers:
            worker.kill()


def trained_again(result: Result) -> Result:
    """The result of a job whose worker was lost and that was trained again, with a note that says so."""
    if isinstance(result, Failed):
        return result
    return replace(result, note="; ".join(filter(None, (result.note, "trained again, for its worker was lost"))))
