"""The loss and the progress of a training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.base.metrics import Score
from nas.training.evaluate import Diverged

WINDOW = 10  # steps between two readings of the loss: each waits for the device


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a training: counts from 1; mean loss of the last steps; the score after the last epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    score: Score | None


class LossMonitor:
    """Reads the loss and the clock every WINDOW steps.

    Raises Diverged if the mean loss of a window is not finite or ten times that of guessing. `step_seconds`: mean per
    window.
    """

    def __init__(
        self, epochs: int, batches: int, num_classes: int, step: int, progress: Callable[[Progress], None] | None
    ) -> None:
        self.epochs, self.batches, self.step, self.progress = epochs, batches, step, progress
        self.steps, self.limit = epochs * batches, 10 * math.log(max(num_classes, 2))
        self.step_seconds: list[float] = []
        self.start()

    def start(self) -> None:
        """Begin a window."""
        self.losses: list[Tensor] = []
        self.since = time.perf_counter()

    def add(self, loss: Tensor, score: Score | None) -> None:
        """A step was taken, with this loss; score: after the last epoch, if there is one."""
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
            self.progress(
                Progress(epoch=epoch, epochs=self.epochs, step=self.step, steps=self.steps, loss=mean, score=score)
            )
        self.start()
