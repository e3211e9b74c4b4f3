"""From an architecture to its result: proxy training of one network, here or in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from threading import Event, Thread
from typing import Any

import torch

from nas import datasets
from nas.architecture import Architecture
from nas.datasets import Dataset
from nas.proxy import Diverged, Outcome, Progress, Recipe, Stop, train

MOST_WORKERS = 4  # by default: each more lets the sampler know less of what it proposes next


@dataclass(frozen=True)
class Proxy:
    """What all networks of a run are trained with: a data set's name or folder, a recipe, a device."""

    data: str
    recipe: Recipe
    device: str


@dataclass(frozen=True)
class Job:
    """One network to train. image_size in pixels (None: the recipe's); stop may end the training early."""

    architecture: str
    seed: int
    image_size: int | None = None
    stop: Stop | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Failed:
    """A training that came to nothing, and why."""

    cause: str


Result = Outcome | Failed
Report = Callable[[Job, Progress], None]
Submit = Callable[[Job], "Future[Result]"]


@lru_cache(maxsize=2)
def load_data(source: str) -> Dataset:
    """Load a data set once in each process; raises UserError."""
    return datasets.load(source)


def evaluate(proxy: Proxy, job: Job, report: Report) -> Result:
    """Train one network by proxy and measure it on the validation images; one that cannot be trained is Failed."""
    recipe = replace(proxy.recipe, image_size=job.image_size) if job.image_size else proxy.recipe
    arch = Architecture.parse(job.architecture)
    tell = partial(report, replace(job, stop=None))  # an equal job, and a short message
    try:
        return train(arch, load_data(proxy.data), recipe, job.seed, proxy.device, tell, job.stop)
    except Diverged as error:
        return Failed(str(error))
    except torch.OutOfMemoryError as error:
        return Failed(f"out of memory, however small the pieces of a batch: {str(error).splitlines()[0][:120]}")


def default_workers(device: str) -> int:
    """Trials side by side: one on a GPU; on the CPU one per core, but no more than the sampler can do with.

    Small networks leave a second core partly idle: two trials on a core each are done sooner than one after the other
    on both (`experiments/proxy_throughput`).
    """
    return min(MOST_WORKERS, os.cpu_count() or 1) if device == "cpu" else 1


@contextmanager
def pool(proxy: Proxy, workers: int, report: Report) -> Iterator[Submit]:
    """Give a function that takes a job and returns the future of its result.

    One worker is this process, and a job is done when the function returns; more are spawned processes, each with
    an equal share of the cores. `report` is called while jobs are done, with more workers from another thread.
    """
    if workers == 1:

        def here(job: Job) -> Future[Result]:
            future: Future[Result] = Future()
            future.set_result(evaluate(proxy, job, report))
            return future

        yield here
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    inbox, outbox = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, context, _start_worker, (threads, outbox, context.Lock()))
    ended = Event()
    listener = Thread(target=_listen, args=(inbox, report, ended), daemon=True)
    listener.start()
    try:
        yield lambda job: executor.submit(evaluate, proxy, job, _send)
    except BaseException:  # after a mistake or Ctrl-C, nobody waits for a training
        for worker in multiprocessing.active_children():
            worker.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        ended.set()
        listener.join(timeout=1)


def _listen(inbox: Connection, report: Report, ended: Event) -> None:
    """Pass on what workers send, until the work has ended."""
    while not ended.is_set():
        if inbox.poll(0.2):
            report(*inbox.recv())


_worker: dict[str, Any] = {}  # in a worker process: its end of the pipe, and the lock that all workers share


def _start_worker(threads: int, outbox: Connection, lock: Lock) -> None:
    """Called once in each worker process: Ctrl-C is the parent's to answer, and a worker ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _worker.update(outbox=outbox, lock=lock)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _send(job: Job, progress: Progress) -> None:
    with _worker["lock"]:
        _worker["outbox"].send((job, progress))
