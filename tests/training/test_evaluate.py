"""Evaluations against independent references."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.datasets.batches import Images
from nas.training.distributed import Ranks
from nas.training.evaluate import Diverged, evaluate

ALONE = Ranks(torch.device("cpu"))


class Table(nn.Module):
    """Answers each image with the logits that are written in its pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0].flatten(1)[:, :8]


def test_measures_are_those_of_their_definitions() -> None:
    n, classes = 5000, 8
    pixels = torch.randint(0, 256, (n, 4, 4, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(1))
    images = Images(pixels, labels, torch.zeros(1, 1, 1), torch.full((1, 1, 1), 50.0))
    found = evaluate(Table(), images, classes, ALONE)
    logits = (pixels[..., 0].flatten(1)[:, :classes].double() / 50).numpy()
    ranks = (logits > logits[np.arange(n), labels][:, None]).sum(1)
    expected = np.zeros((classes, classes), int)
    np.add.at(expected, (labels.numpy(), logits.argmax(1)), 1)
    likelihoods = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert abs(found.confusion.numpy() - expected).sum() < 0.02 * n  # but for ties
    assert found.images == n
    assert found.top1 == pytest.approx((logits.argmax(1) == labels.numpy()).mean(), abs=0.002)
    assert found.top5 == pytest.approx((ranks < 5).mean(), abs=0.02)
    assert found.loss == pytest.approx(-np.log(likelihoods[np.arange(n), labels]).mean(), rel=1e-5)
    broken = Images(pixels, labels, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    with pytest.raises(Diverged, match="no finite logits for"):
        evaluate(Table(), broken, classes, ALONE)
