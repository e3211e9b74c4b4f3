"""From an architecture to its result: proxy training of one network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from nas import datasets
from nas.base.errors import UserError, first_line
from nas.datasets import Dataset, Source, Stored
from nas.devices.device import out_of_memory
from nas.networks.architecture import Architecture
from nas.training.proxy import Diverged, Outcome, Progress, Recipe, train


@dataclass(frozen=True)
class Proxy:
    """What all networks of a run are trained with: images, a recipe, a device."""

    data: Source
    recipe: Recipe
    device: str


@dataclass(frozen=True)
class Job:
    """One network to train. image_size in pixels and epochs are the recipe's where None."""

    architecture: str
    seed: int
    image_size: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Failed:
    """A training that came to nothing, and why."""

    cause: str


Result = Outcome | Failed
Report = Callable[[Job, Progress], None]


@lru_cache(maxsize=2)
def load_data(source: Source) -> Dataset:
    """Load a data set once in each process; raises UserError."""
    return datasets.load_source(source)


def handed_over(proxy: Proxy) -> Proxy:
    """The proxy for other processes: they read images that this one has put into the cache without looking at files.

    Where they do not find these they load the data themselves, and compare its fingerprint.
    """
    found = load_data(proxy.data)
    stored = found.stored or Stored(Path(), "", found.fingerprint)
    return replace(proxy, data=replace(proxy.data, stored=stored, recheck=False))


def evaluate(proxy: Proxy, job: Job, report: Report) -> Result:
    """Train one network by proxy and measure it on the validation images.

    Whatever the training raises makes it Failed, but for UserError and KeyboardInterrupt.
    """
    common = proxy.recipe
    recipe = replace(common, image_size=job.image_size or common.image_size, epochs=job.epochs or common.epochs)
    arch = Architecture.parse(job.architecture)
    try:
        return train(arch, load_data(proxy.data), recipe, job.seed, proxy.device, partial(report, job))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # libraries raise errors of every class
        return failed(error)


def failed(error: BaseException) -> Failed:
    """The result of a training that raised an error."""
    if isinstance(error, Diverged):
        return Failed(str(error))
    if isinstance(error, RuntimeError) and out_of_memory(error):
        return Failed(f"out of memory, however small the pieces of a batch: {first_line(error)}")
    return Failed(f"{type(error).__name__}: {first_line(error)}".removesuffix(": "))
