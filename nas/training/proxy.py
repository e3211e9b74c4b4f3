"""Proxy training: a short, seeded training without checkpoint that ranks networks by their validation score."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch

from nas.base.errors import UserError, first_line
from nas.base.metrics import Score
from nas.datasets import Dataset, Source, load_data
from nas.devices.device import out_of_memory, pick_device
from nas.networks.architecture import Architecture
from nas.networks.module import zero_init
from nas.training.distributed import Ranks
from nas.training.evaluate import Diverged
from nas.training.monitor import Progress
from nas.training.recipe import Recipe
from nas.training.trainer import Task, Trainer, train


@dataclass(frozen=True)
class Proxy:
    """The images, recipe and device that all networks of a run are trained with."""

    data: Source
    recipe: Recipe
    device: str


@dataclass(frozen=True)
class Job:
    """One network to train. image_size in pixels is the data's where None, epochs are the recipe's."""

    architecture: str
    seed: int
    image_size: int | None = None
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a training.

    scores: on the validation images after each epoch. seconds: all of it; step_seconds: the median training step.
    batch_size: images per optimizer step. note: what differed from the recipe, or "".
    """

    scores: tuple[Score, ...]
    epochs: int
    seconds: float
    step_seconds: float
    steps: int
    batch_size: int
    note: str

    @property
    def score(self) -> Score:
        """The score after the last step."""
        return self.scores[-1]

    @property
    def accuracy(self) -> float:
        """Top-1 after the last step, 0 to 1."""
        return self.score.accuracy

    @property
    def curve(self) -> tuple[float, ...]:
        """Top-1 after each epoch."""
        return tuple(score.accuracy for score in self.scores)


@dataclass(frozen=True)
class Failed:
    """A training that failed, and why."""

    cause: str


Result = Outcome | Failed
Report = Callable[[Job, Progress], None]


def train_proxy(
    arch: Architecture,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    device: str = "auto",
    *,
    image_size: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train one network for a short time and evaluate it on the validation images; raises Diverged.

    image_size: in pixels, the data's if None. All random numbers follow from the seed: on the CPU, with the same number
    of threads, the outcome is the same to the last bit. The caller's random generators are left unchanged. One training
    at a time in a process.
    """
    started, where = time.perf_counter(), pick_device(device)
    task = Task.of(data, recipe, seed, where, image_size=image_size, proxy=True)
    with torch.random.fork_rng([where] if where.type == "cuda" else []):
        torch.manual_seed(seed)
        model = arch.build(data.num_classes, data.channels, recipe.dropout, recipe.drop_path)
        zero_init(model)
        trainer = Trainer(model, task.recipe, Ranks(where))
        trained = train(trainer, task, progress=progress)
    parts = trainer.microbatches
    return Outcome(
        scores=tuple(trained.scores),
        epochs=recipe.epochs,
        seconds=time.perf_counter() - started,
        step_seconds=median(trained.step_seconds),
        steps=trainer.steps,
        batch_size=task.recipe.batch_size,
        note=f"out of memory: each batch in {parts} microbatches" if parts > 1 else "",
    )


def run_job(proxy: Proxy, job: Job, report: Report) -> Result:
    """Train one network by proxy and evaluate it on the validation images.

    Whatever the training raises makes it Failed, but for UserError and KeyboardInterrupt.
    """
    recipe = replace(proxy.recipe, epochs=job.epochs or proxy.recipe.epochs)
    arch, progress = Architecture.parse(job.architecture), partial(report, job)
    try:
        data = load_data(proxy.data)
        return train_proxy(arch, data, recipe, job.seed, proxy.device, image_size=job.image_size, progress=progress)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # libraries raise errors of every class
        return failure(error)


def failure(error: BaseException) -> Failed:
    """The result of a training that raised an error."""
    if isinstance(error, Diverged):
        return Failed(str(error))
    if isinstance(error, RuntimeError) and out_of_memory(error):
        return Failed(f"out of memory, however small the microbatches: {first_line(error)}")
    return Failed(f"{type(error).__name__}: {first_line(error)}".removesuffix(": "))
