"""The parts of a training against independent references: what varies images, averages weights, and measures."""

import math
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from torch import Tensor, nn
from torchvision.transforms import v2

from nas import Architecture
from nas.datasets.batches import Images
from nas.networks.architecture import bundled_names
from nas.plots import figures as plots
from nas.plots import training as pictures
from nas.training import loop
from nas.training.augment import cropped, erased, mixed
from nas.training.measure import measure
from nas.training.proxy import Diverged, schedule
from nas.training.ranks import Ranks
from nas.training.recipe import BUNDLED, Recipe
from nas.training.trainee import Trainee

NET = Architecture.parse("16px stem8 ds_r1_k3_s1_c8 ir_r1_k3_s2_e3_c16 head16")
ALONE = Ranks(torch.device("cpu"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("least", [0.1, 0.6])
def test_a_crop_is_a_part_of_the_image_scaled_up(least: float) -> None:
    """In an image whose channels are ramps, the slopes of a crop tell its sides."""
    side, n = 100, 300
    ramp = torch.arange(side, dtype=torch.float32) * 2 + 10
    picture = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)], 2)
    crops = cropped(picture.to(torch.uint8).expand(n, -1, -1, -1), least, generator())
    assert crops.dtype == torch.uint8
    seen = crops.float()
    inner = seen[:, 20:81, 20:81]
    width, height = (
        (inner[:, :, -1, 0] - inner[:, :, 0, 0]).mean(1) / 120,
        (inner[:, -1, :, 1] - inner[:, 0, :, 1]).mean(1) / 120,
    )
    area, ratio = width * height, width / height
    assert (area > least * 0.75 - 0.03).all()  # less than the least only where a long side meets the image's
    assert (area[(width < 0.98) & (height < 0.98)] > least - 0.03).all()
    assert (area < 1.02).all()
    assert ((ratio > 0.72) & (ratio < 1.39)).all()
    assert area.std() > 0.05
    assert inner[:, 30, 30].std(0).min() > 3  # they lie here and there
    assert seen.min() >= 10
    assert seen.max() <= 2 * side + 8


def test_erasing_is_that_of_torchvision() -> None:
    images = torch.ones(4000, 3, 20, 24)
    blank = erased(images, 0.4, generator()) == 0
    assert (blank[:, 0] == blank[:, 1]).all()
    rows, columns = blank[:, 0].any(2), blank[:, 0].any(1)
    assert torch.equal(blank[:, 0], rows[:, :, None] & columns[:, None, :])  # rectangles
    hit = blank[:, 0].flatten(1).any(1)
    assert hit.float().mean().item() == pytest.approx(0.4, abs=0.03)
    torch.manual_seed(0)
    reference = v2.RandomErasing(p=1.0)
    theirs = torch.stack([(reference(images[0]) == 0)[0] for _ in range(2000)]).float().mean((1, 2))
    ours = blank[hit, 0].float().mean((1, 2))
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=0.015)
    for share in (0.1, 0.5, 0.9):
        assert ours.quantile(share).item() == pytest.approx(theirs.quantile(share).item(), abs=0.03)


@given(st.integers(0, 10_000), st.sampled_from([(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)]))
def test_mixed_images_are_what_their_labels_say(seed: int, alphas: tuple[float, float]) -> None:
    n, classes = 6, 6
    images = torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, 3, 9, 7) * 10
    labels = torch.arange(n)
    torch.manual_seed(seed)
    x, y = mixed(images.clone(), labels, *alphas, classes)
    assert y.shape == (n, classes)
    torch.testing.assert_close(y.sum(1), torch.ones(n))
    values = torch.arange(classes, dtype=torch.float32) * 10
    torch.testing.assert_close(x.mean((1, 2, 3)), y @ values, rtol=1e-4, atol=1e-3)  # by share or by area
    pure = torch.isin(x, values).all()
    assert pure or alphas[0]
    if alphas[1] and not alphas[0]:
        assert pure  # CutMix leaves every pixel one image's


def test_nothing_is_mixed_without_alphas() -> None:
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    x, y = mixed(images, labels, 0, 0, 4)
    assert x is images
    assert y is labels


def batch(seed: int, n: int = 12) -> tuple[Tensor, Tensor]:
    drawn = generator(seed)
    return torch.randn(n, 3, 16, 16, generator=drawn), torch.randint(0, 5, (n,), generator=drawn)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_the_running_average_is_the_sum_of_all_weights_by_age(optimizer: str) -> None:
    torch.manual_seed(0)
    trainee = Trainee(NET.build(5), Recipe(optimizer=optimizer, ema=0.6), ALONE)
    seen = [torch.cat([p.detach().flatten() for p in trainee.model.parameters()]).double()]
    for step in range(8):
        trainee.step([batch(step)], 1, 12, 0.01)
        seen.append(torch.cat([p.detach().flatten() for p in trainee.model.parameters()]).double())
    decays = [min(0.6, (1 + step) / (10 + step)) for step in range(1, 9)]
    ages = [math.prod(decays[i:]) * (1 - decays[i - 1] if i else 1) for i in range(9)]
    assert sum(ages) == pytest.approx(1)
    expected = sum(share * weights for share, weights in zip(ages, seen, strict=True))
    found = torch.cat([p.flatten() for p in trainee.averaged.parameters()]).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, seen[-1])


def test_pieces_add_up_to_the_gradient_of_the_batch() -> None:
    """Of a network without batch norm, whose statistics are a piece's own."""
    gradients = []
    for pieces in (1, 3):
        torch.manual_seed(0)
        model = NET.build(5, dropout=0, drop_path=0)
        for part in model.modules():
            for name, child in part.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(part, name, nn.Identity())
        trainee = Trainee(model, Recipe(optimizer="sgd"), ALONE)
        trainee.dtype = None
        x, y = batch(0, 13)
        trainee.step(zip(x.tensor_split(pieces), y.tensor_split(pieces), strict=True), pieces, 13, 0.0)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_frozen_parts_keep_weights_and_statistics() -> None:
    torch.manual_seed(0)
    model = NET.build(5)
    trainee = Trainee(model, Recipe(body_rate=0.1, ema=0.5), ALONE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainee.freeze(2)
    for step in range(3):
        trainee.step([batch(step)], 1, 12, 0.01)
    for network in (trainee.model, trainee.averaged):
        for name, tensor in network.state_dict().items():
            same = torch.equal(tensor, before[name])
            assert same == name.startswith(("features.0.", "features.1.")) or "running" in name or "batches" in name
            if name.startswith(("features.0.", "features.1.")):
                assert same, name
    assert len(trainee.norms) == sum(isinstance(module, nn.BatchNorm2d) for module in model.features[2:].modules())
    rates = {group["share"]: group["lr"] for group in trainee.optimizer.param_groups}
    assert rates == {0.1: pytest.approx(0.001), 1.0: pytest.approx(0.01)}


def test_what_was_trained_without_loss_scaling_goes_on_with_it() -> None:
    """A run of a CPU or a new GPU may be continued on an older one, which needs fp16."""
    first, later = (Trainee(NET.build(5), Recipe(), ALONE) for _ in range(2))
    first.step([batch(0)], 1, 12, 0.01)
    later.scaler = torch.amp.GradScaler("cpu")
    later.restore(first.state())
    assert later.steps == 1
    assert later.scaler.get_scale() == torch.amp.GradScaler("cpu").get_scale()


def test_frozen_parts_are_freed_from_the_last() -> None:
    recipe = Recipe(unfreeze=0.5)
    assert [recipe.frozen(epoch / 10, 4) for epoch in range(10)] == [4, 3, 2, 2, 1, 0, 0, 0, 0, 0]
    assert Recipe().frozen(0.9, 4) == 4


class Table(nn.Module):
    """Answers each image with the logits that are written in its pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0].flatten(1)[:, :8]


def test_measures_are_those_of_their_definitions() -> None:
    n, classes = 5000, 8
    pixels = torch.randint(0, 256, (n, 4, 4, 1), generator=generator(), dtype=torch.uint8)
    labels = torch.randint(0, classes, (n,), generator=generator(1))
    images = Images(pixels, labels, torch.zeros(1, 1, 1), torch.full((1, 1, 1), 50.0))
    found = measure(Table(), images, classes, ALONE)
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
    assert found.error == pytest.approx(math.sqrt(found.top1 * (1 - found.top1) / n))
    broken = Images(pixels, labels, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    with pytest.raises(Diverged, match="no finite logits for"):
        measure(Table(), broken, classes, ALONE)


def test_every_image_is_trained_on_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (23, 16, 16, 3), dtype=torch.uint8)
    images = Images(pixels, torch.arange(23) % 5, torch.zeros(3, 1, 1), torch.full((3, 1, 1), 255.0))
    drawn: list[list[int]] = []
    real = Images.drawn

    def spied(self: Images, chosen: Tensor, *more: object) -> tuple[Tensor, Tensor]:
        drawn.append(chosen.tolist())
        return real(self, chosen, *more)  # type: ignore[arg-type]

    recipe = Recipe(epochs=2, batch_size=8)
    course = loop.Course(images, images, 5, True, recipe, 2, 0, 7)
    monkeypatch.setattr(loop, "settle_norms", lambda *_: None)
    monkeypatch.setattr(Images, "drawn", spied)
    trainee = Trainee(NET.build(5), recipe, ALONE)
    state = torch.random.get_rng_state()
    ended = loop.train(trainee, course, tmp_path / "c.pt", lambda _: None, lambda _: None)
    assert torch.equal(state, torch.random.get_rng_state())
    assert [len(piece) for piece in drawn] == [4, 4, 4, 4, 4, 3] * 2
    epochs = [list(chain(*drawn[:6])), list(chain(*drawn[6:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(23))] * 2
    assert epochs[0] != epochs[1]
    assert [row.rate for row in ended.rows] == [recipe.learning_rate * schedule(step, 6, 0.1) for step in (2, 5)]
    damaged = tmp_path / "c.pt"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(Exception, match="cannot be read"):
        loop.train(Trainee(NET.build(5), recipe, ALONE), course, damaged, lambda _: None, lambda _: None)


def test_the_bundled_recipes_are_those_of_their_sources() -> None:
    assert bundled_names(BUNDLED) == ["default", "efficientnet_v1", "efficientnet_v2", "finetune"]
    first, second = (Recipe.load(f"efficientnet_v{i}") for i in (1, 2))
    assert first.optimizer == second.optimizer == "rmsprop"
    assert first.for_batch(4096).learning_rate == pytest.approx(second.learning_rate) == pytest.approx(0.256)
    assert first.warmup * first.epochs == pytest.approx(5, abs=0.01)
    assert second.progressive is not None
    assert second.stage(0.99, 300).randaugment == 15
    assert Recipe(learning_rate=0.1).for_batch(256).learning_rate == pytest.approx(0.2)  # adamw: by the root


@pytest.mark.pictures
@pytest.mark.parametrize("classes", [2, 10, 200])
def test_a_confusion_is_drawn_whatever_the_number_of_classes(tmp_path: Path, classes: int) -> None:
    drawn = np.random.default_rng(0)
    counts = drawn.poisson(0.2, (classes, classes)) + np.diag(drawn.integers(5, 50, classes))
    names = [f"a class of number {i}" for i in range(classes)]
    figure = pictures.confusion(pd.DataFrame(counts, index=names, columns=names), "title", "subtitle")
    plots.save(figure, tmp_path / "c.png")
    assert imread(tmp_path / "c.png").std() > 0.05
    left, right = figure.axes[0], figure.axes[1]
    assert len(left.get_xticks()) <= 40
    longest = max(bar.get_width() for bar in right.patches) if right.patches else 0  # type: ignore[attr-defined]
    assert longest == (counts - np.diag(np.diag(counts))).max()
