"""The proxy trainer learns, repeats itself to the bit, and fails as a trial, not as a run."""

import itertools
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
from nas.datasets.batches import Images, channel_statistics, home_of, resized
from nas.devices.device import pick_device
from nas.networks.architecture import Architecture
from nas.training.proxy import Diverged, Outcome, Progress, Recipe, Stepper, calm, schedule, train

CPU = torch.device("cpu")
TINY = Architecture.parse("stem16 ds_r1_k3_s1_e1_c16_se0.25 ir_r2_k5_s2_e3_c24 ir_r1_k5_s2_e3_c32 head64")
DEEP = Architecture.parse("stem16 ir_r2_k5_s2_e3_c24_se0.25 ir_r2_k5_s2_e3_c32 ir_r2_k5_s2_e3_c40 ir_r2_k5_s2_e3_c48")
BRIEF = Recipe(epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def clothes() -> Dataset:
    """A slice of the embedded default: grey, 28 px, ten classes."""
    data = datasets.load()
    drawn = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(0))[:2000]
    return replace(data, train_images=data.train_images[drawn], train_labels=data.train_labels[drawn])


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
    return train(TINY, clothes, replace(BRIEF, epochs=2), seed=0, device="cpu")


def test_it_learns_real_images(learned: Outcome) -> None:
    assert learned.accuracy > 0.6  # chance is 0.1
    assert learned.accuracy == learned.curve[-1] > learned.curve[0] > 0.3
    assert learned.error == pytest.approx(math.sqrt(learned.accuracy * (1 - learned.accuracy) / 2000))
    assert (learned.epochs, learned.steps, learned.batch_size, learned.note) == (2, 250, 16, "")
    assert 0 < learned.step_seconds * learned.steps < 3 * learned.seconds


def test_the_same_seed_gives_the_same_bits(few: Dataset) -> None:
    recipe = replace(BRIEF, epochs=2, dropout=0.2, drop_path=0.2, shift=0.1)
    losses: list[list[float]] = [[], [], []]
    curves = [
        train(TINY, few, recipe, seed, "cpu", lambda p, seen=seen: seen.append(p.loss)).curve
        for seed, seen in zip((3, 3, 4), losses, strict=True)
    ]
    assert curves[0] == curves[1]
    assert losses[0] == losses[1] != losses[2]


def test_the_callers_generator_is_left_alone(few: Dataset) -> None:
    before = torch.random.get_rng_state()
    train(TINY, few, BRIEF, seed=5, device="cpu")
    assert torch.equal(before, torch.random.get_rng_state())


def test_another_seed_shows_the_images_in_another_order(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, orders = Images.drawn, []

    def seen(self: Images, chosen: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        orders[-1] += chosen.tolist()
        return whole(self, chosen, *others)

    monkeypatch.setattr(Images, "drawn", seen)
    for seed in (0, 1):
        orders.append([])
        train(TINY, few, BRIEF, seed=seed, device="cpu")
    assert orders[0] != orders[1]
    assert sorted(orders[0][:100]) == sorted(orders[1][:100]) == list(range(100))


def test_accuracy_is_of_validation_images_only(clothes: Dataset, learned: Outcome) -> None:
    recipe = replace(BRIEF, epochs=2)
    renamed = replace(clothes, val_labels=(clothes.val_labels + 1) % 10)
    wrong = train(TINY, renamed, recipe, seed=0, device="cpu")
    assert wrong.accuracy < 0.1 < learned.accuracy  # the same network, right answers are now wrong ones
    shuffled = clothes.train_labels[torch.randperm(2000, generator=torch.Generator().manual_seed(1))]
    memorised = train(TINY, replace(clothes, train_labels=shuffled), BRIEF, seed=0, device="cpu")
    assert memorised.accuracy < 0.3


def test_a_few_steps_already_show(clothes: Dataset) -> None:
    data = replace(clothes, train_images=clothes.train_images[:960], train_labels=clothes.train_labels[:960])
    assert train(DEEP, data, replace(BRIEF, batch_size=64), seed=0, device="cpu").accuracy > 0.3  # 15 steps


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_huge_learning_rate_fails_the_trial(few: Dataset, optimizer: str) -> None:
    recipe = Recipe(epochs=5, batch_size=16, optimizer=optimizer, learning_rate=1e8, clip=0)  # type: ignore[arg-type]
    with pytest.raises(Diverged, match=r"epoch \d, step \d+ of 35: loss"):
        train(TINY, few, recipe, seed=0, device="cpu")


def test_a_loss_that_is_not_a_number_fails_the_trial(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stepper, "step", lambda *_: torch.tensor(math.nan))
    with pytest.raises(Diverged, match="epoch 1, step 7 of 7: loss nan"):
        train(TINY, few, BRIEF, seed=0, device="cpu")


def test_logits_that_are_not_finite_fail_the_trial(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step may break a network after the last look at its loss."""
    step = Stepper.step

    def breaking(self: Stepper, *arguments: Any) -> torch.Tensor:
        loss = step(self, *arguments)
        nn.init.constant_(self.model.classifier[-1].bias, math.inf)
        return loss

    monkeypatch.setattr(Stepper, "step", breaking)
    with pytest.raises(Diverged, match="no finite logits for 100 of 100 validation images"):
        train(TINY, few, replace(BRIEF, batch_size=100), seed=0, device="cpu")


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory (a test)"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 10 bytes"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB, other allocations: 1 GB, max allowed: 2 GB)"),
]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_out_of_memory_cuts_the_batch_in_pieces(
    few: Dataset, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    whole, sizes = F.cross_entropy, []

    def scarce(logits: torch.Tensor, labels: torch.Tensor, **options: float) -> torch.Tensor:
        sizes.append(len(labels))
        if len(labels) > 8:
            raise error
        return whole(logits, labels, **options)

    monkeypatch.setattr(F, "cross_entropy", scarce)
    outcome = train(TINY, few, BRIEF, seed=0, device="cpu")
    assert outcome.note == "out of memory: each batch in 2 pieces"
    assert (outcome.batch_size, outcome.steps) == (16, 7)
    assert sum(sizes[1:]) == 100  # after one refusal, every image once


def test_images_that_would_fill_a_gpu_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (2000, 9000) if where == gpu else (0, 0))
    for mapped in (False, True):
        assert [home_of(size, mapped, gpu) for size in (1000, 1001)] == [gpu, CPU]
        assert home_of(10**18, mapped, CPU) == CPU
    assert [home_of(10, mapped, torch.device("mps")).type for mapped in (False, True)] == ["mps", "cpu"]


def test_pieces_give_the_gradient_of_the_whole_batch() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))  # no batch norm
    images, labels = torch.randn(9, 1, 8, 8), torch.arange(9) % 3
    gradients = []
    for pieces in (1, 2):
        stepper = Stepper(model, Recipe(), CPU)
        stepper.pieces, stepper.dtype = pieces, None
        nn.init.ones_(model[3].weight[:2].data)
        stepper.optimizer.zero_grad()
        stepper.gradients(images, labels)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_memory_that_never_suffices_is_an_error(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory at all")

    monkeypatch.setattr(F, "cross_entropy", never)
    with pytest.raises(torch.OutOfMemoryError):
        train(TINY, few, BRIEF, seed=0, device="cpu")


@pytest.mark.parametrize(("count", "batch", "steps"), [(100, 16, 7), (100, 33, 4), (5, 4, 2), (6, 64, 1)])
def test_every_image_is_used_whatever_the_batch(few: Dataset, count: int, batch: int, steps: int) -> None:
    data = replace(few, train_images=few.train_images[:count], train_labels=few.train_labels[:count])
    outcome = train(TINY, data, replace(BRIEF, batch_size=batch), seed=0, device="cpu")
    assert (outcome.steps, outcome.batch_size) == (steps, min(count, batch))


@pytest.mark.parametrize("size", [16, 40])
def test_colour_and_other_sizes(few: Dataset, size: int) -> None:
    colour = replace(
        few, train_images=few.train_images.expand(-1, 3, -1, -1), val_images=few.val_images.expand(-1, 3, -1, -1)
    )
    outcome = train(TINY, colour, replace(BRIEF, image_size=size), seed=0, device="cpu")
    assert 0 <= outcome.accuracy <= 1


def test_resizing_keeps_the_picture(clothes: Dataset) -> None:
    small = resized(clothes.val_images[:50], 14)
    assert small.shape == (50, 1, 14, 14)
    assert small.dtype == torch.uint8
    means = F.avg_pool2d(clothes.val_images[:50].float(), 2)
    assert (small.float() - means).abs().mean() < 10  # of 255


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    pixels = torch.randint(0, 256, (700, 3, 6, 6), dtype=torch.uint8)
    pixels[:, 2] = 7  # a constant channel
    images = Images(pixels.permute(0, 2, 3, 1).contiguous(), torch.zeros(700), *channel_statistics(pixels))
    values = images.normalised(images.pixels)
    assert values.shape == pixels.shape
    assert values.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(values.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.std((0, 2, 3)), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)


def test_augmentation_moves_and_mirrors_single_images() -> None:
    picture = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8, 1)
    images = Images(picture, torch.zeros(1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    chosen, generator = torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0)
    same, _ = images.drawn(chosen, 0, False, generator)
    assert torch.equal(same, picture.expand(200, -1, -1, -1))
    seen = {tuple(x.flatten().tolist()) for x in images.drawn(chosen, 0, True, generator)[0]}
    assert seen == {tuple(same[0].flatten().tolist()), tuple(same[0].flip(1).flatten().tolist())}
    moved, _ = images.drawn(chosen, 0.125, False, generator)
    assert set(moved[:, 4, 4, 0].tolist()) == {36 + 8 * row + column for row in (-1, 0, 1) for column in (-1, 0, 1)}


@pytest.mark.parametrize("resolution", [16, 28, 64])
def test_quick_convolutions_change_no_result(resolution: int) -> None:
    model = DEEP.build(10, 1).eval()
    images = torch.randn(4, 1, resolution, resolution)
    expected = model(images)
    prepared = Stepper(DEEP.build(10, 1), Recipe(), CPU).model.eval()
    prepared.load_state_dict(model.state_dict())
    torch.testing.assert_close(prepared(images), expected, atol=1e-4, rtol=1e-4)


def test_a_calm_start_predicts_nothing_yet_and_can_learn() -> None:
    arch = Architecture.parse("stem8 er_r2_k3_s1_e1_c8 ir_r2_k3_s2_e3_c16 head32 relu")
    model = arch.build(10, 1)
    calm(model)
    images = torch.randn(8, 1, 16, 16)
    assert not model.classifier[-1].weight.any()
    start = model(images)
    torch.testing.assert_close(start, torch.zeros(8, 10))
    stepper = Stepper(model, Recipe(), CPU)
    for _ in range(3):
        stepper.step(images, torch.arange(8), 1e-2)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.any() for name, p in model.named_parameters() if p.ndim > 1 and p.grad is not None)


def test_the_schedule_rises_then_falls() -> None:
    rates = [schedule(step, 20, 0.25) for step in range(20)]
    assert rates[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[5:]))
    assert schedule(0, 1, 0) == 1


def test_progress_is_told_at_least_once_an_epoch(few: Dataset) -> None:
    told: list[Progress] = []
    outcome = train(TINY, few, replace(BRIEF, epochs=2, batch_size=8), seed=0, device="cpu", progress=told.append)
    assert [(p.epoch, p.step) for p in told] == [(1, 10), (1, 13), (2, 23), (2, 26)]
    assert [p.score for p in told] == [None, None, outcome.scores[0], outcome.scores[0]]
    assert {(p.epochs, p.steps) for p in told} == {(2, 26)}


def test_devices() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda:99", "gpu", "cuda:x", ""):
        with pytest.raises(UserError, match="is not here; this machine has cpu"):
            pick_device(name)


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"warmup": 1.0}, {"learning_rate": math.nan}, {"optimizer": "lamb"}, {"image_size": 4}]
)
def test_impossible_recipes(change: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"recipe: {next(iter(change))} must be"):
        replace(BRIEF, **change)
