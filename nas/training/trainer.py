"""The trainer: epochs of optimizer steps with an evaluation after each, and a checkpoint now and then if one is wanted.

Memory layout is channels-last. The arithmetic is mixed: bf16 on CUDA and on a CPU that has it, fp16 with a gradient
scaler on an older GPU, else fp32. On CUDA no step waits for the device.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from nas.base.errors import UserError
from nas.base.files import write_atomic
from nas.base.metrics import Score
from nas.datasets import Dataset
from nas.datasets.batches import Images, images_of
from nas.devices.device import mixed_dtype, out_of_memory
from nas.networks.module import Network
from nas.training.augment import augment
from nas.training.convolutions import use_fast_cpu_convolutions
from nas.training.distributed import Ranks
from nas.training.evaluate import NORM_BATCHES, Metrics, batch_of, evaluate, recompute_batchnorm_stats
from nas.training.monitor import LossMonitor, Progress
from nas.training.optimizer import apply_gradients, make_optimizer, schedule
from nas.training.recipe import Recipe

CHECKPOINT = "checkpoint.pt"
PART = 2000  # validation images of a proxy's evaluations before the last
CHECKPOINT_SECONDS = 60.0  # between two checkpoints, at most

Batch = tuple[Tensor, Tensor]  # images [n, c, h, w] and labels [n], or [n, classes] where images are mixed


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
class TrainResult:
    """The result of a training.

    metrics: on the validation images after the last epoch. scores: after each epoch of this process. step_seconds: mean
    of each window of steps.
    """

    metrics: Metrics
    rows: list[Row]
    scores: list[Score]
    step_seconds: list[float]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a network is trained on, and how.

    flip: whether a mirrored image keeps its label. freeze: parts of the features that are frozen at first.
    proxy: whether the training only ranks networks. If so, evaluations use mixed precision too, those before the last
    epoch a part of the images, norm statistics come from batches of the recipe's size, and one generator serves the
    whole training. If not, each step draws random
    numbers from a seed of its own, so that a training that is continued, or shared by processes, draws the same.
    """

    training: Images
    validation: Images
    num_classes: int
    flip: bool
    recipe: Recipe
    seed: int
    freeze: int = 0
    proxy: bool = False

    @classmethod
    def of(
        cls,
        data: Dataset,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        *,
        image_size: int | None = None,
        statistics: tuple[Sequence[float], Sequence[float]] | None = None,
        freeze: int = 0,
        proxy: bool = False,
    ) -> Task:
        """Training on a data set; the recipe's batches become smaller where the data set has fewer images.

        device: where batches are needed. image_size: in pixels, the data's if None. statistics: mean and std of pixel
        values to normalise by, one number per channel; those of the training images if None.
        """
        training, validation = images_of(data, image_size, device)
        if statistics:
            mean, std = (torch.tensor(values, device=device)[:, None, None] for values in statistics)
            training, validation = (replace(images, mean=mean, std=std) for images in (training, validation))
        return cls(
            training=training,
            validation=validation,
            num_classes=data.num_classes,
            flip=data.flip,
            recipe=replace(recipe, batch_size=min(recipe.batch_size, len(training))),
            seed=seed,
            freeze=freeze,
            proxy=proxy,
        )

    @cached_property
    def between(self) -> Images:
        """The validation images of evaluations before the last epoch: PART of them, always the same, for a proxy."""
        if not self.proxy or len(self.validation) <= PART:
            return self.validation
        chosen = torch.randperm(len(self.validation), generator=torch.Generator().manual_seed(0))[:PART].sort().values
        pixels, labels = self.validation.pixels, self.validation.labels
        return replace(
            self.validation, pixels=pixels[chosen.to(pixels.device)], labels=labels[chosen.to(labels.device)]
        )

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return self.recipe.batches(len(self.training))

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return self.recipe.epochs * self.batches

    def frozen(self, epoch: int) -> int:
        """How many parts of the features are frozen in an epoch, counted from 0."""
        return self.recipe.frozen(epoch / self.recipe.epochs, self.freeze)

    def generator(self, *use: object) -> torch.Generator:
        """The generator for one use of random numbers, where the images are."""
        if self.proxy:
            return self._only_generator
        return torch.Generator(self.training.pixels.device).manual_seed(self._seed_of(*use))

    def seed_torch(self, *use: object) -> None:
        """Seed torch's own generators for one use of random numbers."""
        if not self.proxy:
            torch.manual_seed(self._seed_of(*use))

    @cached_property
    def _only_generator(self) -> torch.Generator:
        return torch.Generator(self.training.pixels.device).manual_seed(self.seed)

    def _seed_of(self, *use: object) -> int:
        return int.from_bytes(hashlib.sha256(repr((self.seed, *use)).encode()).digest()[:7])


class Trainer:
    """A network in training: its steps, the running average of its weights, and all of its state.

    A batch is computed in microbatches, from each of which batch norm takes its statistics; processes add up their
    gradients, so a step does not depend on which of them computes which. Where one process alone runs out of memory,
    the number of microbatches doubles. `evaluated` is the network to be measured and kept: its weights are the running
    average if the recipe has one.
    """

    def __init__(
        self, model: Network, recipe: Recipe, ranks: Ranks, microbatches: int = 1, compiled: bool = False
    ) -> None:
        self.model = model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.ranks, self.microbatches, self.compiled = recipe, ranks, microbatches, compiled
        self.average = averaged_model(model, recipe.ema) if recipe.ema else None
        self.evaluated = cast(Network, self.average.module) if self.average else model
        self.dtype = mixed_dtype(ranks.device)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.dtype == torch.float16)
        self.steps = 0
        self.optimizer = make_optimizer(model, recipe)
        if not compiled:
            for network in {model, self.evaluated}:
                use_fast_cpu_convolutions(network)
        self.frozen = -1  # not known yet
        self.freeze(0)

    def freeze(self, parts: int) -> None:
        """Keep the first parts of the features (the stem, the stages, the head) as they are from now on."""
        if parts == self.frozen:
            return
        self.frozen = parts
        for i, part in enumerate(self.model.features):
            part.requires_grad_(i >= parts)
        self.forward: nn.Module = self.model
        if self.ranks.world > 1:
            own = [self.ranks.device] if self.ranks.device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.model, own)
        if self.compiled:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]

    def step(self, cut: Callable[[int], Iterator[Batch]], images: int, rate: float) -> Tensor:
        """One optimizer step on a batch of `images` images over all processes; returns its mean loss, on the device.

        cut: gives this process's part of the batch, cut into the given number of microbatches. rate: the learning rate
        of the classifier.
        """
        while True:
            try:
                loss = self._gradients(cut(self.microbatches), images)
                break
            except RuntimeError as error:  # batch norm needs several images in each microbatch
                if not out_of_memory(error) or self.ranks.world > 1 or images < 8 * self.microbatches:
                    raise
            self.microbatches *= 2
            if self.ranks.device.type == "cuda":
                torch.cuda.empty_cache()
        apply_gradients(self.optimizer, self.scaler, rate, self.recipe.clip)
        self.steps += 1
        if self.average:
            self.average.update_parameters(self.model)
        return self.ranks.all_reduce(loss)

    def _gradients(self, batches: Iterator[Batch], images: int) -> Tensor:
        """Accumulate the gradients of a batch's mean loss; returns this process's share of that loss."""
        self.model.train()
        for part in self.model.features[: self.frozen]:
            part.eval()  # its norms keep their statistics, and nothing is dropped
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.ranks.device)
        own = self.microbatches // self.ranks.world
        for i, (x, y) in enumerate(batches, 1):
            # Gradients are exchanged between processes once they are added up.
            waiting = self.forward.no_sync() if self.ranks.world > 1 and i < own else nullcontext()  # type: ignore[operator]
            with waiting:
                with torch.autocast(self.ranks.device.type, self.dtype, enabled=self.dtype is not None):
                    loss = F.cross_entropy(self.forward(x), y, label_smoothing=self.recipe.label_smoothing)
                loss = loss * (len(y) / images)
                # Gradients come out as means over processes; what is wanted are sums.
                torch.autograd.backward(self.scaler.scale(loss * self.ranks.world))
            total += loss.detach()
        return total

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        """The batch norms whose statistics are recomputed: all that are not frozen."""
        parts = self.evaluated.features[self.frozen :]
        return [module for module in parts.modules() if isinstance(module, nn.BatchNorm2d)]

    def evaluate(self, task: Task, epoch: int) -> Metrics:
        """Recompute the batch norms' statistics, and evaluate on the validation images; raises Diverged."""
        images = task.training
        usual = min(batch_of(images.size) // 2, len(images) // NORM_BATCHES)
        size = task.recipe.batch_size // self.microbatches if task.proxy else usual
        dtype = self.dtype if task.proxy else None
        with torch.autocast(self.ranks.device.type, dtype, enabled=dtype is not None):
            recompute_batchnorm_stats(self.evaluated, self.norms, images, max(4, size), task.generator("norms", epoch))
        validation = task.validation if epoch + 1 == task.recipe.epochs else task.between
        return evaluate(self.evaluated, validation, task.num_classes, self.ranks, dtype)

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on: tensors, numbers, lists and tables of them."""
        average = self.average.state_dict() if self.average else {}
        counts = {"steps": self.steps, "microbatches": self.microbatches}
        networks = {"model": self.model.state_dict(), "average": average, **counts}
        return {**networks, "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # there is none of a device that needs none
            self.scaler.load_state_dict(state["scaler"])
        self.steps, self.microbatches = state["steps"], state["microbatches"]


def averaged_model(model: Network, decay: float) -> AveragedModel:
    """The running average of a network's weights; in the first steps it moves faster, since early weights are poor."""

    @torch.no_grad()
    def average(kept: Any, new: Any, steps: Any) -> None:
        torch._foreach_lerp_(kept, new, 1 - min(decay, (1 + int(steps)) / (10 + int(steps))))

    averaged = AveragedModel(model, multi_avg_fn=average).requires_grad_(False)
    averaged.n_averaged.fill_(1)  # else the first update would be a copy
    return averaged


def train(
    trainer: Trainer,
    task: Task,
    checkpoint: Path | None = None,
    after_epoch: Callable[[list[Row]], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train to the end, from the checkpoint if there is one, evaluating after each epoch; raises Diverged.

    after_epoch: is given the curve, in the first process only. On the CPU, with the same number of threads, weights are
    the same to the last bit, however often a training with a checkpoint was killed. The caller's random generators are
    left unchanged.
    """
    ranks, rows, scores, before, metrics = trainer.ranks, list[Row](), list[Score](), 0.0, None
    total = torch.zeros((), device=ranks.device)
    saved = ranks.broadcast(checkpoint.read_bytes() if checkpoint and ranks.first and checkpoint.exists() else b"")
    if saved and checkpoint:
        state = _read(saved, checkpoint, ranks)
        trainer.restore(state["trainer"])
        rows, total, before = [Row(*row) for row in state["rows"]], state["total"], state["seconds"]
    monitor = LossMonitor(task.recipe.epochs, task.batches, task.num_classes, trainer.steps, progress)
    began = kept = time.monotonic()

    def save(seconds: float) -> None:
        nonlocal kept
        if checkpoint and ranks.first:
            _write(checkpoint, trainer, rows, total, seconds)
            kept = time.monotonic()

    with torch.random.fork_rng([ranks.device] if ranks.device.type == "cuda" else []):
        for epoch in range(len(rows), task.recipe.epochs):
            trainer.freeze(task.frozen(epoch))
            order = torch.randperm(
                len(task.training), generator=task.generator("order", epoch), device=task.training.pixels.device
            ).tensor_split(task.batches)  # sizes differ by one at most, so none is tiny
            monitor.start()
            for chosen in order[trainer.steps - epoch * task.batches :]:
                rate = task.recipe.learning_rate * schedule(trainer.steps, task.steps, task.recipe.warmup)
                loss = trainer.step(partial(_microbatches, task, trainer, chosen), len(chosen), rate)
                total += loss
                monitor.add(loss, scores[-1] if scores else None)
                if time.monotonic() - kept >= CHECKPOINT_SECONDS and trainer.steps % task.batches:
                    save(before + time.monotonic() - began)
            metrics = trainer.evaluate(task, epoch)
            seconds, mean = before + time.monotonic() - began, total.item() / task.batches
            scores.append(metrics.score)
            balanced = metrics.score.balanced_accuracy
            rows.append(Row(epoch + 1, rate, mean, metrics.loss, metrics.top1, metrics.top5, seconds, balanced))
            total.zero_()
            if ranks.first and after_epoch:
                after_epoch(rows)
            if time.monotonic() - kept >= CHECKPOINT_SECONDS or epoch + 1 == task.recipe.epochs:
                save(seconds)
    if metrics is None:  # it was killed after its last step
        trainer.freeze(task.frozen(task.recipe.epochs - 1))
        metrics = trainer.evaluate(task, task.recipe.epochs - 1)
    return TrainResult(metrics, rows, scores, monitor.step_seconds)


def _microbatches(task: Task, trainer: Trainer, chosen: Tensor, count: int) -> Iterator[Batch]:
    """This process's microbatches of a batch, given by the numbers of its images, each augmented when it is needed."""
    step, ranks = trainer.steps, trainer.ranks
    phase = task.recipe.phase(step / task.steps, task.training.size)
    phase.set_dropout(trainer.model)
    cut = chosen.tensor_split(count)
    for i in range(ranks.rank, count, ranks.world):
        task.seed_torch("piece", step, i)  # the words are part of the seed, so they must not change
        generator = task.generator("images", step, i)
        yield augment(task.training, cut[i], task.recipe, phase, task.flip, task.num_classes, generator)


def _write(file: Path, trainer: Trainer, rows: list[Row], total: Tensor, seconds: float) -> None:
    buffer = io.BytesIO()
    kept = {"trainer": trainer.state(), "rows": [tuple(row) for row in rows], "total": total, "seconds": seconds}
    torch.save(kept, buffer)
    write_atomic(file, buffer.getvalue())


def _read(content: bytes, file: Path, ranks: Ranks) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(io.BytesIO(content), ranks.device, weights_only=True)
    except Exception as error:  # torch meets damaged files with errors of every class
        raise UserError(
            f"{file}: cannot be read ({str(error).splitlines()[0][:80]}); delete it to begin this training anew"
        ) from None
    if "trainer" not in saved:
        raise UserError(f"{file}: is of an older version; delete it to begin this training anew")
    return saved
