"""How many networks a search trains, and for how many epochs, where its time budget decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nas.base.limits import Bounds
from nas.base.machine import available_cores, torch_threads
from nas.datasets import load_data
from nas.spaces.space import SearchSpace
from nas.training.proxy import Proxy, train_proxy
from nas.training.recipe import PROXY, Recipe

TRIALS = 12  # with fewer it is hardly a search
MOST_EPOCHS = 6  # of the proxy: after that, more networks are worth more than longer trainings
STEPS = 20  # of the training that is timed


@dataclass(frozen=True)
class Effort:
    """The number of trials, and of the epochs of each."""

    trials: int
    epochs: int


def effort_of(
    trials: int | None, epochs: int | None, seconds: float | None, recipe: Recipe, speed: Callable[[], float]
) -> Effort:
    """The trials and epochs of a search: as asked for, else as many as fit into its time budget in seconds.

    speed: epochs that all workers together do in a second. Epochs come first, up to MOST_EPOCHS with the proxy's own
    recipe as long as TRIALS networks can be trained: a few networks that can be told apart are worth more than many
    that cannot. What is left goes to further networks. Never fewer than the recipe's epochs and TRIALS.
    """
    least = epochs or recipe.epochs
    if seconds is None or (trials and epochs):
        return Effort(trials or TRIALS, least)
    most = least if epochs or recipe.name != PROXY else max(least, MOST_EPOCHS)
    passes = seconds * speed()
    chosen = int(min(max(passes / (trials or TRIALS), least), most))
    return Effort(trials or max(TRIALS, int(passes / chosen)), chosen)


def epoch_seconds(space: SearchSpace, bounds: Bounds, proxy: Proxy, workers: int, image_size: int) -> float:
    """Seconds that an epoch takes one of the workers, measured by a few steps with a network of median MAdds."""
    drawn = space.draw_codes(31, 0, bounds)
    middle = space.decode(drawn[np.argsort(space.costs(drawn)["madds"])[len(drawn) // 2]])
    data, batch = load_data(proxy.data), proxy.recipe.batch_size
    few = replace(
        data,
        train_images=data.train_images[: STEPS * batch],
        train_labels=data.train_labels[: STEPS * batch],
        val_images=data.val_images[:batch],
        val_labels=data.val_labels[:batch],
        stored=None,
    )
    with torch_threads(max(1, available_cores() // workers)):
        timed = train_proxy(middle, few, replace(proxy.recipe, epochs=1), 0, proxy.device, image_size=image_size)
    return min(timed.step_seconds, timed.seconds / timed.steps) * proxy.recipe.batches(len(data.train_labels))
