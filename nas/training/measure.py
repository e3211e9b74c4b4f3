"""What a network is worth on images that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.base.metrics import Score
from nas.datasets.batches import Images
from nas.training.proxy import Diverged
from nas.training.ranks import Ranks

PIXELS = 2**22  # of the images in a batch that is only looked at
MOST = 500  # images of such a batch


def batch_of(size: int) -> int:
    """Images of so many pixels' side in a batch that no gradients are wanted of."""
    return max(4, min(MOST, PIXELS // size**2))


@dataclass(frozen=True)
class Measured:
    """loss: mean cross-entropy. top5: share of images whose class is among the five likeliest. confusion: [c, c].

    confusion counts the images of each class (rows) by the likeliest class (columns).
    """

    loss: float
    top5: float
    confusion: Tensor

    @cached_property
    def images(self) -> int:
        """How many were looked at."""
        return int(self.confusion.sum())

    @cached_property
    def score(self) -> Score:
        """Accuracy and balanced accuracy, with their standard errors from the number of images."""
        return Score.of(self.confusion.diagonal().tolist(), self.confusion.sum(1).tolist())

    @property
    def top1(self) -> float:
        """Share of images whose class is the likeliest."""
        return self.score.accuracy

    @property
    def error(self) -> float:
        """Standard error of top1."""
        return self.score.accuracy_error


@torch.no_grad()
def measure(model: nn.Module, images: Images, classes: int, ranks: Ranks) -> Measured:
    """Look at all images once, in fp32, as users of the network will; raises Diverged where logits are not finite."""
    model.eval()
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=ranks.where)
    exact = torch.float32 if ranks.where.type == "mps" else torch.float64  # Apple's GPUs have no other
    sums = torch.zeros(3, dtype=exact, device=ranks.where)  # losses, right among five, finite
    batches = torch.split(torch.arange(len(images)), batch_of(images.size))
    for chosen in batches[ranks.rank :: ranks.world]:
        part = slice(int(chosen[0]), int(chosen[-1]) + 1)
        labels = images.labels[part].to(ranks.where)
        logits = model(images.normalised(images.pixels[part])).float()
        counts += torch.bincount(labels * classes + logits.argmax(1), minlength=classes * classes)
        five = logits.topk(min(5, classes)).indices
        losses = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([losses, (five == labels[:, None]).sum(), logits.isfinite().all(1).sum()]).to(exact)
    loss, top5, finite = (ranks.summed(sums) / len(images)).tolist()
    if finite != 1:
        raise Diverged(f"no finite logits for {round((1 - finite) * len(images))} of {len(images)} images")
    return Measured(loss, top5, ranks.summed(counts).view(classes, classes).cpu())
