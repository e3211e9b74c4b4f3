"""The trainer: its steps against independent references, its state, and its order of images."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas import Architecture
from nas.base.errors import UserError
from nas.datasets.batches import Images
from nas.networks.module import zero_init
from nas.training import trainer as module
from nas.training.distributed import Ranks
from nas.training.optimizer import schedule
from nas.training.recipe import Recipe
from nas.training.schedule import Schedule
from nas.training.trainer import Task, Trainer, train

NET = Architecture.parse("16px stem8 ds_r1_k3_s1_c8 ir_r1_k3_s2_e3_c16 head16")
DEEP = Architecture.parse("stem16 ir_r2_k5_s2_e3_c24_se0.25 ir_r2_k5_s2_e3_c32 ir_r2_k5_s2_e3_c40 ir_r2_k5_s2_e3_c48")
ALONE = Ranks(torch.device("cpu"))
ALL = Schedule("all", (0.5, 1), (1, 2), (9, 15), (0.2, 0.4), (0.1, 0.3))  # everything at once


def batch(seed: int, n: int = 12) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 16, 16, generator=drawn), torch.randint(0, 5, (n,), generator=drawn)


def cut(images: Tensor, labels: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(images.tensor_split(count), labels.tensor_split(count), strict=True)


def step(trainer: Trainer, images: Tensor, labels: Tensor, rate: float = 0.01) -> Tensor:
    return trainer.step(partial(cut, images, labels), len(labels), rate)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_the_running_average_is_the_sum_of_all_weights_by_age(optimizer: str) -> None:
    torch.manual_seed(0)
    trainer = Trainer(NET.build(5), Recipe(optimizer=optimizer, ema=0.6), ALONE)
    seen = [torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).double()]
    for i in range(8):
        step(trainer, *batch(i))
        seen.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).double())
    decays = [min(0.6, (1 + i) / (10 + i)) for i in range(1, 9)]
    ages = [math.prod(decays[i:]) * (1 - decays[i - 1] if i else 1) for i in range(9)]
    assert sum(ages) == pytest.approx(1)
    expected = sum(share * weights for share, weights in zip(ages, seen, strict=True))
    found = torch.cat([p.flatten() for p in trainer.evaluated.parameters()]).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, seen[-1])


def test_microbatches_add_up_to_the_gradient_of_the_batch() -> None:
    """Of a network without batch norm, whose statistics are a microbatch's own."""
    gradients = []
    for count in (1, 3):
        torch.manual_seed(0)
        model = NET.build(5, dropout=0, drop_path=0)
        for part in model.modules():
            for name, child in part.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(part, name, nn.Identity())
        trainer = Trainer(model, Recipe(optimizer="sgd"), ALONE, count)
        trainer.dtype = None
        step(trainer, *batch(0, 13), 0.0)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_frozen_parts_keep_weights_and_statistics() -> None:
    torch.manual_seed(0)
    model = NET.build(5)
    trainer = Trainer(model, Recipe(body_rate=0.1, ema=0.5), ALONE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.freeze(2)
    for i in range(3):
        step(trainer, *batch(i))
    for network in (trainer.model, trainer.evaluated):
        for name, tensor in network.state_dict().items():
            same = torch.equal(tensor, before[name])
            assert same == name.startswith(("features.0.", "features.1.")) or "running" in name or "batches" in name
            if name.startswith(("features.0.", "features.1.")):
                assert same, name
    assert len(trainer.norms) == sum(isinstance(module, nn.BatchNorm2d) for module in model.features[2:].modules())
    rates = {group["share"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {0.1: pytest.approx(0.001), 1.0: pytest.approx(0.01)}


def test_what_was_trained_without_loss_scaling_goes_on_with_it() -> None:
    """A run of a CPU or a new GPU may be continued on an older one, which needs fp16."""
    first, later = (Trainer(NET.build(5), Recipe(), ALONE) for _ in range(2))
    step(first, *batch(0))
    later.scaler = torch.amp.GradScaler("cpu")
    later.restore(first.state())
    assert later.steps == 1
    assert later.scaler.get_scale() == torch.amp.GradScaler("cpu").get_scale()


def task_of(recipe: Recipe, count: int = 23) -> Task:
    """Images of noise, of five classes."""
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=drawn)
    images = Images(pixels, torch.arange(count) % 5, torch.zeros(3, 1, 1), torch.full((3, 1, 1), 255.0))
    return Task(training=images, validation=images, num_classes=5, flip=True, recipe=recipe, seed=7)


def test_every_image_is_trained_on_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []
    real = Images.sample

    def spied(self: Images, chosen: Tensor, *more: object) -> tuple[Tensor, Tensor]:
        drawn.append(chosen.tolist())
        return real(self, chosen, *more)  # type: ignore[arg-type]

    recipe = Recipe(epochs=2, batch_size=8)
    monkeypatch.setattr(module, "recompute_batchnorm_stats", lambda *_: None)
    monkeypatch.setattr(Images, "sample", spied)
    trainer = Trainer(NET.build(5), recipe, ALONE, 2)
    state = torch.random.get_rng_state()
    result = train(trainer, task_of(recipe))
    assert torch.equal(state, torch.random.get_rng_state())
    assert [len(part) for part in drawn] == [4, 4, 4, 4, 4, 3] * 2
    epochs = [list(chain(*drawn[:6])), list(chain(*drawn[6:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(23))] * 2
    assert epochs[0] != epochs[1]
    assert [row.rate for row in result.rows] == [recipe.learning_rate * schedule(i, 6, 0.1) for i in (2, 5)]


def test_a_checkpoint_that_is_damaged_or_older_is_refused(tmp_path: Path) -> None:
    recipe, file = Recipe(epochs=1, batch_size=8), tmp_path / "c.pt"
    train(Trainer(NET.build(5), recipe, ALONE), task_of(recipe), file)
    whole = file.read_bytes()
    torch.save({"trainee": {}}, file)
    with pytest.raises(UserError, match=r"c.pt: is of an older version; delete it to begin this training anew"):
        train(Trainer(NET.build(5), recipe, ALONE), task_of(recipe), file)
    file.write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"c.pt: cannot be read .* delete it to begin this training anew"):
        train(Trainer(NET.build(5), recipe, ALONE), task_of(recipe), file)


def test_microbatches_that_memory_cannot_hold_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the training had begun with more of them, since each draws from a seed of its own."""
    whole = F.cross_entropy

    def scarce(logits: Tensor, labels: Tensor, **options: float) -> Tensor:
        if len(labels) > 6 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return whole(logits, labels, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "cross_entropy", scarce)
    recipe, results = Recipe(epochs=2, batch_size=16, mixup=0.2, randaugment=5), []
    for count in (2, 1):
        torch.manual_seed(0)
        trainer = Trainer(NET.build(5), recipe, ALONE, count)
        results.append(train(trainer, task_of(recipe)))
        assert trainer.microbatches == 2
    assert results[0].scores == results[1].scores
    assert [row.train_loss for row in results[0].rows] == [row.train_loss for row in results[1].rows]


def test_processes_that_share_a_batch_do_not_cut_it_further(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(NET.build(5), Recipe(), ALONE, 2)
    trainer.ranks = replace(ALONE, world=2)
    monkeypatch.setattr(Trainer, "_gradients", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("a test")))
    with pytest.raises(torch.OutOfMemoryError):
        step(trainer, *batch(0, 64))
    assert trainer.microbatches == 2


def test_images_grow_and_are_evaluated_at_their_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are of the phase's size, with its dropout."""
    trained: list[tuple[int, float]] = []
    evaluated: set[int] = set()
    call = nn.Module.__call__

    def seen(self: nn.Module, *arguments: Tensor) -> Tensor:
        if hasattr(self, "classifier") and self.training:
            trained.append((arguments[0].shape[-1], self.classifier[0].p))
        elif hasattr(self, "classifier"):
            evaluated.add(arguments[0].shape[-1])
        return call(self, *arguments)

    monkeypatch.setattr(nn.Module, "__call__", seen)
    recipe = Recipe(epochs=2, batch_size=4, progressive=ALL)
    result = train(Trainer(NET.build(5), recipe, ALONE), task_of(recipe, 20))
    assert trained == [(8, 0.1)] * 5 + [(16, 0.3)] * 5
    assert evaluated == {16}
    assert all(math.isfinite(row.train_loss) for row in result.rows)


@pytest.mark.parametrize("resolution", [16, 28, 64])
def test_quick_convolutions_change_no_result(resolution: int) -> None:
    model = DEEP.build(10, 1).eval()
    images = torch.randn(4, 1, resolution, resolution)
    expected = model(images)
    prepared = Trainer(DEEP.build(10, 1), Recipe(), ALONE).model.eval()
    prepared.load_state_dict(model.state_dict())
    torch.testing.assert_close(prepared(images), expected, atol=1e-4, rtol=1e-4)


def test_zero_init_predicts_nothing_yet_and_can_learn() -> None:
    arch = Architecture.parse("stem8 er_r2_k3_s1_e1_c8 ir_r2_k3_s2_e3_c16 head32 relu")
    model = arch.build(10, 1)
    zero_init(model)
    images = torch.randn(8, 1, 16, 16)
    assert not model.classifier[-1].weight.any()
    start = model(images)
    torch.testing.assert_close(start, torch.zeros(8, 10))
    trainer = Trainer(model, Recipe(), ALONE)
    for _ in range(3):
        step(trainer, images, torch.arange(8))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.any() for name, p in model.named_parameters() if p.ndim > 1 and p.grad is not None)


def test_the_schedule_rises_then_falls() -> None:
    rates = [schedule(i, 20, 0.25) for i in range(20)]
    assert rates[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[5:]))
    assert schedule(0, 1, 0) == 1
