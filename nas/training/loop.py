"""The training itself: epochs of steps, a look at the validation images after each, and a checkpoint now and then.

Nothing random is carried from step to step: each piece of a batch draws from a seed that is made of the training's
seed, the step and the piece. So a training that continues, or is shared by processes, draws the same.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.base.errors import UserError
from nas.base.files import write_atomic
from nas.datasets.batches import Images
from nas.training.augment import cropped, erased, mixed
from nas.training.measure import Measured, batch_of, measure
from nas.training.proxy import NORM_BATCHES, Progress, Watch, schedule, settle_norms
from nas.training.ranks import Ranks
from nas.training.recipe import Recipe
from nas.training.trainee import Batch, Trainee

CHECKPOINT = "checkpoint.pt"
EVERY = 60.0  # seconds between two checkpoints, at most


class Row(NamedTuple):
    """One epoch: a row of curve.csv. rate: the learning rate of its last step; seconds: since the training began.

    Trainings that older versions began have no balanced accuracy in their first rows.
    """

    epoch: int
    rate: float
    train_loss: float
    val_loss: float
    top1: float
    top5: float
    seconds: float
    balanced_accuracy: float = math.nan


@dataclass(frozen=True)
class Ended:
    """How a training ended: what its network is worth, and the curve."""

    measured: Measured
    rows: list[Row]


@dataclass(frozen=True)
class Course:
    """What a training goes through: images, the recipe, and how a batch is cut.

    pieces: of a batch, a multiple of the number of processes. freeze: parts of the features that are frozen at first.
    """

    training: Images
    validation: Images
    classes: int
    flip: bool
    recipe: Recipe
    pieces: int
    freeze: int
    seed: int

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return self.recipe.batches(len(self.training))

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.recipe.epochs * self.batches

    def drawn(self, *what: object) -> int:
        """A seed of its own for each use of chance."""
        return int.from_bytes(hashlib.sha256(repr((self.seed, *what)).encode()).digest()[:7])

    def generator(self, *what: object) -> torch.Generator:
        """A generator with that seed, where the images are."""
        return torch.Generator(self.training.pixels.device).manual_seed(self.drawn(*what))


def train(
    trainee: Trainee,
    course: Course,
    file: Path,
    published: Callable[[list[Row]], None],
    progress: Callable[[Progress], None],
) -> Ended:
    """Train to the end, from the checkpoint in that file if there is one, and measure; raises Diverged.

    published: is given the curve after each epoch, in the first process only, as progress is told. On the CPU, with
    the same number of threads, weights are the same to the last bit however often the process was killed. The
    caller's random generators stay as they were.
    """
    ranks = trainee.ranks
    rows: list[Row] = []
    total, measured, before = torch.zeros((), device=ranks.where), None, 0.0
    if content := ranks.told(file.read_bytes() if ranks.first and file.exists() else b""):
        saved = _read(content, file, ranks)
        trainee.restore(saved["trainee"])
        rows, total, before = [Row(*row) for row in saved["rows"]], saved["total"], saved["seconds"]
    watch = Watch(course.recipe.epochs, course.batches, 10 * math.log(max(course.classes, 2)), progress)
    watch.step = trainee.steps
    began = kept = time.monotonic()
    with torch.random.fork_rng([ranks.where] if ranks.where.type == "cuda" else []):
        for epoch in range(len(rows), course.recipe.epochs):
            _freeze(trainee, course, epoch)
            order = torch.randperm(
                len(course.training), generator=course.generator("order", epoch), device=course.training.pixels.device
            ).tensor_split(course.batches)
            watch.start()
            for chosen in order[trainee.steps - epoch * course.batches :]:
                rate = course.recipe.learning_rate * schedule(trainee.steps, course.steps, course.recipe.warmup)
                own = range(ranks.rank, course.pieces, ranks.world)
                loss = trainee.step(_pieces(course, trainee, chosen, own), len(own), len(chosen), rate)
                total += loss
                watch.see(loss, measured.score if measured else None)
                if ranks.first and time.monotonic() - kept >= EVERY and trainee.steps % course.batches:
                    _write(file, trainee, rows, total, before + time.monotonic() - began)
                    kept = time.monotonic()
            measured = _measured(trainee, course, epoch)
            seconds = before + time.monotonic() - began
            mean = total.item() / course.batches
            shares = measured.top1, measured.top5
            rows.append(Row(epoch + 1, rate, mean, measured.loss, *shares, seconds, measured.score.balanced_accuracy))
            total.zero_()
            if ranks.first:
                published(rows)
                if time.monotonic() - kept >= EVERY or epoch + 1 == course.recipe.epochs:
                    _write(file, trainee, rows, total, seconds)
                    kept = time.monotonic()
    if measured is None:  # it was killed after its last step
        _freeze(trainee, course, course.recipe.epochs - 1)
        measured = _measured(trainee, course, course.recipe.epochs - 1)
    return Ended(measured, rows)


def _freeze(trainee: Trainee, course: Course, epoch: int) -> None:
    frozen = course.recipe.frozen(epoch / course.recipe.epochs, course.freeze)
    if frozen != trainee.frozen:
        trainee.freeze(frozen)


def _pieces(course: Course, trainee: Trainee, chosen: Tensor, own: range) -> Iterator[Batch]:
    """The pieces of a batch with these numbers, each augmented right before it is needed."""
    recipe, images, step = course.recipe, course.training, trainee.steps
    stage = recipe.stage(step / course.steps, images.size)
    stage.regularize(trainee.model)
    cut = chosen.tensor_split(course.pieces)
    for i in own:
        torch.manual_seed(course.drawn("piece", step, i))
        generator = course.generator("images", step, i)
        pixels, labels = images.drawn(cut[i], recipe.shift, recipe.flip and course.flip, generator)
        if recipe.crop < 1:
            pixels = cropped(pixels, recipe.crop, generator)
        pixels, labels = replace(stage, mixup=0).augmented(pixels, labels, course.classes)  # `mixed` does that
        x = images.normalised(pixels)
        if recipe.erase:
            x = erased(x, recipe.erase, generator)
        yield mixed(x, labels, stage.mixup, recipe.cutmix, course.classes)


def _measured(trainee: Trainee, course: Course, epoch: int) -> Measured:
    """Settle the norms of the network that is to be kept, and measure it."""
    images, generator = course.training, course.generator("norms", epoch)
    size = max(4, min(batch_of(images.size) // 2, len(images) // NORM_BATCHES))
    settle_norms(trainee.averaged, trainee.norms, images, size, generator)
    return measure(trainee.averaged, course.validation, course.classes, trainee.ranks)


def _write(file: Path, trainee: Trainee, rows: list[Row], total: Tensor, seconds: float) -> None:
    buffer = io.BytesIO()
    kept = {"trainee": trainee.state(), "rows": [tuple(row) for row in rows], "total": total, "seconds": seconds}
    torch.save(kept, buffer)
    write_atomic(file, buffer.getvalue())


def _read(content: bytes, file: Path, ranks: Ranks) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(io.BytesIO(content), ranks.where, weights_only=True)
    except Exception as error:  # torch meets damaged files with errors of every class
        raise UserError(
            f"{file}: cannot be read ({str(error).splitlines()[0][:80]}); delete it to begin this training anew"
        ) from None
    return saved
