"""From an architecture to its result: proxy training of one network, here or in worker processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from nas import datasets
from nas.architecture import Architecture
from nas.datasets import Dataset
from nas.proxy import Diverged, Outcome, Progress, Recipe, train


@dataclass(frozen=True)
class Proxy:
    """What all networks of a run are trained with: a data set's name or folder, a recipe, a device."""

    data: str
    recipe: Recipe
    device: str


@dataclass(frozen=True)
class Job:
    """One network to train. image_size in pixels (None: the recipe's)."""

    architecture: str
    seed: int
    image_size: int | None = None


@dataclass(frozen=True)
class Failed:
    """A training that came to nothing, and why."""

    cause: str


Result = Outcome | Failed
Report = Callable[[Progress], None]
Submit = Callable[[Job], "Future[Result]"]


@lru_cache(maxsize=2)
def load_data(source: str) -> Dataset:
    """Load a data set once in each process; raises UserError."""
    return datasets.load(source)


def evaluate(proxy: Proxy, job: Job, report: Report | None = None) -> Result:
    """Train one network by proxy and measure it on the validation images; one that cannot be trained is Failed."""
    recipe = replace(proxy.recipe, image_size=job.image_size) if job.image_size else proxy.recipe
    arch = Architecture.parse(job.architecture)
    try:
        return train(arch, load_data(proxy.data), recipe, job.seed, proxy.device, report)
    except Diverged as error:
        return Failed(str(error))
    except torch.OutOfMemoryError as error:
        return Failed(f"out of memory, however small the pieces of a batch: {str(error).splitlines()[0][:120]}")


@contextmanager
def pool(proxy: Proxy, workers: int, report: Report | None = None) -> Iterator[Submit]:
    """Give a function that takes a job and returns the future of its result.

    One worker is this process, and a job is done when the function returns; more are spawned processes, each with
    an equal share of the cores, and report nothing meanwhile.
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
    executor = ProcessPoolExecutor(workers, context, torch.set_num_threads, (threads,))
    try:
        yield lambda job: executor.submit(evaluate, proxy, job)
    finally:
        executor.shutdown(cancel_futures=True)
