"""Proxy training: a short, seeded training that ranks networks by their accuracy on validation images.

Memory layout is channels-last. The arithmetic is mixed: bf16 on CUDA and on a CPU that has it, fp16 with a gradient
scaler on an older GPU, else fp32. On CUDA no step waits for the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.base.errors import UserError
from nas.base.metrics import Score
from nas.base.units import check_range
from nas.datasets import Dataset
from nas.datasets.batches import Images, images_of
from nas.devices.device import mixed_dtype, out_of_memory, pick_device
from nas.networks.architecture import Architecture
from nas.networks.module import Block
from nas.training.convolutions import quicken
from nas.training.schedule import Schedule

WINDOW = 10  # steps between two looks at the loss: each look waits for the device
EVAL_BATCH = 500  # images
NORM_BATCHES = 8  # batches that batch norm's statistics are taken from, before each look at the accuracy


@dataclass(frozen=True)
class Recipe:
    """How to train briefly.

    epochs: passes over the training images (≥ 1); two rank networks as well as three, one does not
    (`experiments/fidelity`). batch_size: images per optimizer step (≥ 4). optimizer: adamw,
    or sgd with Nesterov momentum 0.9. learning_rate: the peak (> 0), at this batch size. weight_decay: ≥ 0, not
    applied to norms and biases. warmup: share of the steps with a rising learning rate, in [0, 1); a cosine to 0
    follows. label_smoothing, dropout, drop_path: shares in [0, 1). image_size: side in pixels, None for the data
    set's own. shift: largest random translation as a share of the side, in [0, 0.5]. flip: mirror half of the
    images where the data set allows it. clip: largest gradient norm, 0 for any. progressive: a schedule by which the
    size grows to image_size, and RandAugment, mixup and dropout (in place of `dropout`) with it. Raises UserError.
    """

    epochs: int = 2
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    warmup: float = 0.2
    label_smoothing: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    image_size: int | None = None
    shift: float = 0.0
    flip: bool = True
    clip: float = 0.0
    progressive: Schedule | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "sgd"):
            raise UserError(f"recipe: optimizer must be adamw or sgd, got {self.optimizer!r}")
        for name, low, high in _RANGES:
            if (value := getattr(self, name)) is not None:
                check_range(f"recipe: {name}", value, low, high)


_RANGES = (
    ("epochs", 1, 1e6),
    ("batch_size", 4, 1e6),
    ("learning_rate", 1e-12, 1e12),
    ("weight_decay", 0, 1e6),
    ("warmup", 0, 0.999),
    ("label_smoothing", 0, 0.999),
    ("dropout", 0, 0.999),
    ("drop_path", 0, 0.999),
    ("image_size", 8, 1024),
    ("shift", 0, 0.5),
    ("clip", 0, 1e12),
)


@dataclass(frozen=True)
class Progress:
    """Where a training is: counts from 1; mean training loss of the last steps; the score after the last epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    score: Score | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training gave.

    scores: on the validation images after each epoch. epochs and steps: how many. seconds: all of it; step_seconds: the
    median training step. batch_size: images per optimizer step. note: what went otherwise than the recipe says, or "".
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
        """After the last step."""
        return self.scores[-1]

    @property
    def accuracy(self) -> float:
        """Top-1 after the last step, 0 to 1."""
        return self.score.accuracy

    @property
    def error(self) -> float:
        """The standard error of the accuracy, from the number of validation images."""
        return self.score.accuracy_error

    @property
    def curve(self) -> tuple[float, ...]:
        """Top-1 after each epoch."""
        return tuple(score.accuracy for score in self.scores)


class Diverged(Exception):
    """The loss became NaN or exploded: this trial failed, not the run."""


def train(
    arch: Architecture,
    data: Dataset,
    recipe: Recipe,
    seed: int,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train one network briefly and measure it on the validation images; raises Diverged.

    All that is random follows from the seed: on the CPU, with the same number of threads, the outcome is the same
    to the last bit. The caller's random generators stay as they were. One training at a time in a process.
    """
    started = time.perf_counter()
    where = pick_device(device)
    training, validation = images_of(data, recipe.image_size, where)
    batch_size = min(recipe.batch_size, len(training))
    batches = math.ceil(len(training) / batch_size)
    watch = Watch(recipe.epochs, batches, 10 * math.log(max(data.num_classes, 2)), progress)
    home = training.pixels.device
    own = torch.Generator(home).manual_seed(seed)
    curve: list[Score] = []
    with torch.random.fork_rng([where] if where.type == "cuda" else []):
        torch.manual_seed(seed)
        model = arch.build(data.num_classes, data.channels, recipe.dropout, recipe.drop_path)
        stepper = Stepper(model, recipe, where)
        while len(curve) < recipe.epochs:
            watch.start()
            order = torch.randperm(len(training), generator=own, device=home)
            for chosen in order.tensor_split(batches):  # sizes differ by one at most, so none is tiny
                pixels, labels = training.drawn(chosen, recipe.shift, recipe.flip and data.flip, own)
                if recipe.progressive:
                    stage = recipe.progressive.at(watch.step / watch.steps, training.size)
                    stage.regularize(model)
                    pixels, labels = stage.augmented(pixels, labels, data.num_classes)
                rate = recipe.learning_rate * schedule(watch.step, watch.steps, recipe.warmup)
                loss = stepper.step(training.normalised(pixels), labels, rate)
                watch.see(loss, curve[-1] if curve else None)
            stepper.settle_norms(training, own)
            curve.append(stepper.score(validation))
    return Outcome(
        scores=tuple(curve),
        epochs=len(curve),
        seconds=time.perf_counter() - started,
        step_seconds=median(watch.step_seconds),
        steps=watch.step,
        batch_size=batch_size,
        note=f"out of memory: each batch in {stepper.pieces} pieces" if stepper.pieces > 1 else "",
    )


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate at a step counted from 0: a linear rise, then half a cosine down to 0.

    Cosine: Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts; warm-up: Goyal et al., arXiv 1706.02677.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


class Stepper:
    """A network in training: takes steps, and is measured.

    `pieces` is how many parts a batch is cut into: it doubles whenever the device runs out of memory.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, where: torch.device) -> None:
        self.model = model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe = recipe
        self.where = where
        self.dtype = mixed_dtype(where)
        self.optimizer = make_optimizer(
            decayed(model.parameters(), recipe.weight_decay), recipe.optimizer, recipe.learning_rate
        )
        self.scaler = torch.amp.GradScaler(where.type, enabled=self.dtype == torch.float16)
        self.pieces = 1
        calm(model)
        quicken(model)

    def step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """One optimizer step on a batch [n, c, h, w] at this learning rate; returns the mean loss, on the device."""
        while True:
            try:
                self.optimizer.zero_grad()
                loss = self.gradients(images, labels)
                break
            except RuntimeError as error:
                if not out_of_memory(error) or len(labels) < 8 * self.pieces:  # batch norm needs several in each piece
                    raise
            self.pieces *= 2
            if self.where.type == "cuda":
                torch.cuda.empty_cache()
        descend(self.optimizer, self.scaler, rate, self.recipe.clip)
        return loss

    def gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Accumulate the gradients of a batch's mean loss, piece by piece; returns that loss."""
        self.model.train()
        total = torch.zeros((), device=self.where)
        for x, y in zip(images.tensor_split(self.pieces), labels.tensor_split(self.pieces), strict=True):
            with self.mixed():
                loss = F.cross_entropy(self.model(x), y, label_smoothing=self.recipe.label_smoothing)
            loss = loss * (len(y) / len(labels))
            torch.autograd.backward(self.scaler.scale(loss))
            total += loss.detach()
        return total

    def settle_norms(self, images: Images, generator: torch.Generator) -> None:
        """Take batch norm's statistics anew from training images."""
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        with self.mixed():
            settle_norms(self.model, norms, images, max(4, self.recipe.batch_size // self.pieces), generator)

    @torch.no_grad()
    def score(self, images: Images) -> Score:
        """How well the network classifies images; raises Diverged where it gives no finite logits."""
        self.model.eval()
        hits: list[Tensor] = []
        finite = torch.zeros((), dtype=torch.int64, device=self.where)
        for pixels, labels in zip(
            *(torch.split(part, EVAL_BATCH) for part in (images.pixels, images.labels)), strict=True
        ):
            with self.mixed():
                logits = self.model(images.normalised(pixels))
            hits.append(logits.argmax(1) == labels.to(self.where))
            finite += logits.isfinite().all(1).sum()
        if lost := len(images) - int(finite):  # argmax would call each of these class 0
            raise Diverged(f"no finite logits for {lost} of {len(images)} validation images")
        known, right = images.labels.cpu(), torch.cat(hits).cpu()
        classes = int(known.max()) + 1
        return Score.of(*(torch.bincount(some, minlength=classes).tolist() for some in (known[right], known)))

    def mixed(self) -> torch.autocast:
        """The context of every forward pass."""
        return torch.autocast(self.where.type, self.dtype, enabled=self.dtype is not None)


@torch.no_grad()
def settle_norms(
    model: nn.Module, norms: Sequence[nn.BatchNorm2d], images: Images, size: int, generator: torch.Generator
) -> None:
    """Take the statistics of norms anew, as means over a few batches of training images, without augmentation.

    The running ones lag behind: after some dozens of steps a network that has learnt still answers with one class.
    Wu & Johnson 2021, arXiv 2105.07576, section 3. size: images of a batch. The model is in eval mode then, but for
    these norms.
    """
    model.eval()
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    size = min(len(images), size)
    order = torch.randperm(len(images), generator=generator, device=images.pixels.device)
    for chosen in torch.split(order[: NORM_BATCHES * size], size):
        if len(chosen) == size:
            model(images.normalised(images.drawn(chosen, 0, False, generator)[0]))
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value


@torch.no_grad()
def calm(model: nn.Module) -> None:
    """Start for a brief training: residual branches and logits begin at zero, so the first steps already learn.

    Zero scale in the last batch norm of a residual branch: Goyal et al. 2017, arXiv 1706.02677, section 5.1.
    """
    for module in model.modules():
        if isinstance(module, Block) and module.residual:
            last = list(module.block.modules())[-1]
            if isinstance(last, nn.BatchNorm2d):  # not before an activation: a ReLU passes no gradient at zero
                nn.init.zeros_(last.weight)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)


def decayed(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """An optimizer's groups: matrices and kernels with weight decay, norms and biases without."""
    everything = list(parameters)
    return [
        {"params": [p for p in everything if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in everything if p.ndim <= 1], "weight_decay": 0.0},
    ]


def make_optimizer(groups: list[dict[str, Any]], name: str, rate: float) -> torch.optim.Optimizer:
    """adamw, sgd with Nesterov momentum 0.9, or rmsprop as EfficientNet has it (arXiv 1905.11946, section 5).

    TensorFlow adds its ε of 0.001 under the root, torch adds it outside.
    """
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, rate, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, rate, alpha=0.9, eps=0.001**0.5, momentum=0.9)
    raise ValueError(name)


def descend(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, rate: float, clip: float) -> None:
    """Take the step that the gradients point to, at this learning rate: a group with a `share` gets so much of it.

    clip: the largest norm of all gradients together, 0 for any.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)
    if clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    scaler.step(optimizer)
    scaler.update()


class Watch:
    """Looks at the loss and the clock every WINDOW steps, because each look waits for the device.

    Raises Diverged if the mean loss of a window is not finite or above `limit`. `step_seconds`: mean per window.
    """

    def __init__(
        self, epochs: int, batches: int, limit: float, progress: Callable[[Progress], None] | None = None
    ) -> None:
        self.epochs, self.batches, self.limit, self.progress = epochs, batches, limit, progress
        self.steps, self.step = epochs * batches, 0
        self.step_seconds: list[float] = []
        self.start()

    def start(self) -> None:
        """Begin a window."""
        self.losses: list[Tensor] = []
        self.since = time.perf_counter()

    def see(self, loss: Tensor, last: Score | None) -> None:
        """A step was taken, with this loss; last: the score after the last epoch, if there is one."""
        self.losses.append(loss)
        self.step += 1
        if len(self.losses) < WINDOW and self.step % self.batches:
            return
        mean = torch.stack(self.losses).mean().item()
        self.step_seconds.append((time.perf_counter() - self.since) / len(self.losses))
        epoch = (self.step - 1) // self.batches + 1
        if not mean <= self.limit:  # NaN fails every comparison
            raise Diverged(f"epoch {epoch}, step {self.step} of {self.steps}: loss {mean:.3g}")
        if self.progress:
            self.progress(Progress(epoch, self.epochs, self.step, self.steps, mean, last))
        self.start()
