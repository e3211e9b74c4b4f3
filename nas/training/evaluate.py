"""The evaluation of a network on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.base.metrics import Score
from nas.datasets.batches import Images
from nas.training.distributed import Ranks

PIXELS = 2**22  # in a batch without gradients, at most
MOST = 500  # images in such a batch, at most
NORM_BATCHES = 8  # batches that batch norm's statistics are computed from


class Diverged(Exception):
    """The loss became NaN or exploded, or logits are not finite: this training failed."""


def batch_of(size: int) -> int:
    """The number of images of this side in pixels in a batch without gradients."""
    return max(4, min(MOST, PIXELS // size**2))


@dataclass(frozen=True)
class Metrics:
    """The result of an evaluation.

    loss: mean cross-entropy. top5: share of images whose class is among the five likeliest. confusion: int64 [c, c],
    images of each class (rows) by the likeliest class (columns).
    """

    loss: float
    top5: float
    confusion: Tensor

    @cached_property
    def images(self) -> int:
        """Images evaluated."""
        return int(self.confusion.sum())

    @cached_property
    def score(self) -> Score:
        """Accuracy and balanced accuracy, with their standard errors from the number of images."""
        return Score.of(self.confusion.diagonal().tolist(), self.confusion.sum(1).tolist())

    @property
    def top1(self) -> float:
        """Share of images whose class is the likeliest."""
        return self.score.accuracy


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Images, num_classes: int, ranks: Ranks, dtype: torch.dtype | None = None
) -> Metrics:
    """Evaluate a network on all images once; raises Diverged where logits are not finite.

    dtype: of autocast; None computes in fp32, as users of the network will.
    """
    model.eval()
    device = ranks.device
    counts = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
    exact = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    sums = torch.zeros(3, dtype=exact, device=device)  # losses, right among five, finite
    batches = torch.split(torch.arange(len(images)), batch_of(images.size))
    for chosen in batches[ranks.rank :: ranks.world]:
        part = slice(int(chosen[0]), int(chosen[-1]) + 1)
        labels = images.labels[part].to(device)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = model(images.normalize(images.pixels[part])).float()
        counts += torch.bincount(labels * num_classes + logits.argmax(1), minlength=num_classes * num_classes)
        five = logits.topk(min(5, num_classes)).indices
        losses = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([losses, (five == labels[:, None]).sum(), logits.isfinite().all(1).sum()]).to(exact)
    loss, top5, finite = (ranks.all_reduce(sums) / len(images)).tolist()
    if finite != 1:
        raise Diverged(f"no finite logits for {round((1 - finite) * len(images))} of {len(images)} validation images")
    return Metrics(loss, top5, ranks.all_reduce(counts).view(num_classes, num_classes).cpu())


@torch.no_grad()
def recompute_batchnorm_stats(
    model: nn.Module, norms: Sequence[nn.BatchNorm2d], images: Images, batch_size: int, generator: torch.Generator
) -> None:
    """Recompute the statistics of batch norms as means over a few batches of training images, without augmentation.

    The running ones lag behind: after a few dozen steps a network that has learnt may still predict only one class. Wu
    & Johnson 2021, arXiv 2105.07576, section 3. The model is in eval mode afterwards, but for these norms.
    """
    model.eval()
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    size = min(len(images), batch_size)
    order = torch.randperm(len(images), generator=generator, device=images.pixels.device)
    for chosen in torch.split(order[: NORM_BATCHES * size], size):
        if len(chosen) == size:
            model(images.normalize(images.sample(chosen, 0, False, generator)[0]))
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
