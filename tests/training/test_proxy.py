"""The proxy trainer learns, repeats itself to the bit, and fails as a trial, not as a run."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas import datasets
from nas.base.errors import UserError
from nas.datasets import Dataset
from nas.datasets.batches import Images
from nas.devices.device import pick_device
from nas.networks.architecture import Architecture
from nas.training.evaluate import Diverged
from nas.training.monitor import Progress
from nas.training.proxy import Outcome, train_proxy
from nas.training.recipe import Recipe
from nas.training.schedule import Schedule
from nas.training.trainer import Trainer

CPU = torch.device("cpu")
TINY = Architecture.parse("stem16 ds_r1_k3_s1_e1_c16_se0.25 ir_r2_k5_s2_e3_c24 ir_r1_k5_s2_e3_c32 head64")
DEEP = Architecture.parse("stem16 ir_r2_k5_s2_e3_c24_se0.25 ir_r2_k5_s2_e3_c32 ir_r2_k5_s2_e3_c40 ir_r2_k5_s2_e3_c48")
BRIEF = replace(Recipe.load("proxy"), epochs=1, batch_size=16)
ALL = Schedule("all", (0.5, 1), (1, 2), (9, 15), (0.2, 0.4), (0.1, 0.3))  # everything at once


@pytest.fixture(scope="module")
def clothes() -> Dataset:
    """A slice of the embedded default: grey, 28 px, ten classes."""
    data = datasets.load()
    drawn = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(0))[:2000]
    train = {"train_images": data.train_images[drawn], "train_labels": data.train_labels[drawn]}
    return replace(data, **train, val_images=data.val_images[:2000], val_labels=data.val_labels[:2000])


@pytest.fixture(scope="module")
def few(clothes: Dataset) -> Dataset:
    """A hundred images of each part: enough where only the mechanics matter."""
    return replace(
        clothes,
        train_images=clothes.train_images[:100],
        train_labels=clothes.train_labels[:100],
        val_images=clothes.val_images[:100],
        val_labels=clothes.val_labels[:100],
    )


@pytest.fixture(scope="module")
def learned(clothes: Dataset) -> Outcome:
    return train_proxy(TINY, clothes, replace(BRIEF, epochs=2), seed=0, device="cpu")


def test_it_learns_real_images(learned: Outcome) -> None:
    assert learned.accuracy > 0.6  # chance is 0.1
    assert learned.accuracy == learned.curve[-1] > learned.curve[0] > 0.3
    assert learned.score.accuracy_error == pytest.approx(math.sqrt(learned.accuracy * (1 - learned.accuracy) / 2000))
    assert (learned.epochs, learned.steps, learned.batch_size, learned.note) == (2, 250, 16, "")
    assert 0 < learned.step_seconds * learned.steps < 3 * learned.seconds


def test_the_same_seed_gives_the_same_bits(few: Dataset) -> None:
    recipe = replace(BRIEF, epochs=2, dropout=0.2, drop_path=0.2, shift=0.1, crop=0.5, erase=0.2, progressive=ALL)
    losses: list[list[float]] = [[], [], []]
    curves = [
        train_proxy(TINY, few, recipe, seed, "cpu", progress=lambda p, seen=seen: seen.append(p.loss)).curve
        for seed, seen in zip((3, 3, 4), losses, strict=True)
    ]
    assert curves[0] == curves[1]
    assert losses[0] == losses[1] != losses[2]


def test_the_callers_generator_is_left_alone(few: Dataset) -> None:
    before = torch.random.get_rng_state()
    train_proxy(TINY, few, BRIEF, seed=5, device="cpu")
    assert torch.equal(before, torch.random.get_rng_state())


def test_another_seed_shows_the_images_in_another_order(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, orders = Images.sample, []

    def seen(self: Images, chosen: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        orders[-1] += chosen.tolist()
        return whole(self, chosen, *others)

    monkeypatch.setattr(Images, "sample", seen)
    for seed in (0, 1):
        orders.append([])
        train_proxy(TINY, few, BRIEF, seed=seed, device="cpu")
    assert orders[0] != orders[1]
    assert sorted(orders[0][:100]) == sorted(orders[1][:100]) == list(range(100))


def test_accuracy_is_of_validation_images_only(clothes: Dataset, learned: Outcome) -> None:
    recipe = replace(BRIEF, epochs=2)
    renamed = replace(clothes, val_labels=(clothes.val_labels + 1) % 10)
    wrong = train_proxy(TINY, renamed, recipe, seed=0, device="cpu")
    assert wrong.accuracy < 0.1 < learned.accuracy  # the same network, right answers are now wrong ones
    shuffled = clothes.train_labels[torch.randperm(2000, generator=torch.Generator().manual_seed(1))]
    memorised = train_proxy(TINY, replace(clothes, train_labels=shuffled), BRIEF, seed=0, device="cpu")
    assert memorised.accuracy < 0.3


def test_a_few_steps_already_show(clothes: Dataset) -> None:
    data = replace(clothes, train_images=clothes.train_images[:960], train_labels=clothes.train_labels[:960])
    assert train_proxy(DEEP, data, replace(BRIEF, batch_size=64), seed=0, device="cpu").accuracy > 0.3  # 15 steps


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_huge_learning_rate_fails_the_trial(few: Dataset, optimizer: str) -> None:
    recipe = replace(BRIEF, epochs=5, optimizer=optimizer, learning_rate=1e6)
    with pytest.raises(Diverged, match=r"epoch \d, step \d+ of 35: loss"):
        train_proxy(TINY, few, recipe, seed=0, device="cpu")


def test_a_loss_that_is_not_a_number_fails_the_trial(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "step", lambda *_: torch.tensor(math.nan))
    with pytest.raises(Diverged, match="epoch 1, step 7 of 7: loss nan"):
        train_proxy(TINY, few, BRIEF, seed=0, device="cpu")


def test_logits_that_are_not_finite_fail_the_trial(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step may break a network after the last look at its loss."""
    step = Trainer.step

    def breaking(self: Trainer, *arguments: Any) -> torch.Tensor:
        loss = step(self, *arguments)
        nn.init.constant_(self.model.classifier[-1].bias, math.inf)  # type: ignore[arg-type]
        return loss

    monkeypatch.setattr(Trainer, "step", breaking)
    with pytest.raises(Diverged, match="no finite logits for 100 of 100 validation images"):
        train_proxy(TINY, few, replace(BRIEF, batch_size=100), seed=0, device="cpu")


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory (a test)"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 10 bytes"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB, other allocations: 1 GB, max allowed: 2 GB)"),
]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_out_of_memory_cuts_the_batch_in_microbatches(
    few: Dataset, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    whole, sizes = F.cross_entropy, []

    def scarce(logits: torch.Tensor, labels: torch.Tensor, **options: float) -> torch.Tensor:
        sizes.append(len(labels) * torch.is_grad_enabled())
        if len(labels) > 8 and torch.is_grad_enabled():
            raise error
        return whole(logits, labels, **options)

    monkeypatch.setattr(F, "cross_entropy", scarce)
    outcome = train_proxy(TINY, few, BRIEF, seed=0, device="cpu")
    assert outcome.note == "out of memory: each batch in 2 microbatches"
    assert (outcome.batch_size, outcome.steps) == (16, 7)
    assert sum(sizes[1:]) == 100  # after one refusal, every image once


def test_memory_that_never_suffices_is_an_error(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory at all")

    monkeypatch.setattr(F, "cross_entropy", never)
    with pytest.raises(torch.OutOfMemoryError):
        train_proxy(TINY, few, BRIEF, seed=0, device="cpu")


@pytest.mark.parametrize(("count", "batch", "steps"), [(100, 16, 7), (100, 33, 4), (5, 4, 2), (6, 64, 1)])
def test_every_image_is_used_whatever_the_batch(few: Dataset, count: int, batch: int, steps: int) -> None:
    data = replace(few, train_images=few.train_images[:count], train_labels=few.train_labels[:count])
    outcome = train_proxy(TINY, data, replace(BRIEF, batch_size=batch), seed=0, device="cpu")
    assert (outcome.steps, outcome.batch_size) == (steps, min(count, batch))


@pytest.mark.parametrize("size", [16, 40])
def test_colour_and_other_sizes(few: Dataset, size: int) -> None:
    colour = replace(
        few, train_images=few.train_images.expand(-1, 3, -1, -1), val_images=few.val_images.expand(-1, 3, -1, -1)
    )
    outcome = train_proxy(TINY, colour, BRIEF, seed=0, device="cpu", image_size=size)
    assert 0 <= outcome.accuracy <= 1


def test_progress_is_reported_at_least_once_an_epoch(few: Dataset) -> None:
    reports: list[Progress] = []
    outcome = train_proxy(
        TINY, few, replace(BRIEF, epochs=2, batch_size=8), seed=0, device="cpu", progress=reports.append
    )
    assert [(p.epoch, p.step) for p in reports] == [(1, 10), (1, 13), (2, 23), (2, 26)]
    assert [p.score for p in reports] == [None, None, outcome.scores[0], outcome.scores[0]]
    assert {(p.epochs, p.steps) for p in reports} == {(2, 26)}


def test_devices() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda:99", "gpu", "cuda:x", ""):
        with pytest.raises(UserError, match="is not here; this machine has cpu"):
            pick_device(name)
