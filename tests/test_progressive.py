"""Progressive learning: schedules are what their files say, batches grow, and a training repeats itself to the bit."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nas import datasets
from nas.base.errors import UserError
from nas.datasets import Dataset
from nas.networks.architecture import Architecture, bundled_names
from nas.training.proxy import Recipe, Stepper, train
from nas.training.schedule import BUNDLED, Schedule, Stage

TINY = Architecture.parse("stem16 ds_r1_k3_s1_e1_c16 ir_r1_k3_s2_e3_c24 head64")
ALL = Schedule("all", (0.5, 1), (1, 2), (9, 15), (0.2, 0.4), (0.1, 0.3))  # everything at once
GOOD = "until = [0.5, 1]\nsize = [1, 2]\nrandaugment = [5, 9]\nmixup = [0, 0.2]\ndropout = [0, 0.1]\n"


@pytest.fixture(scope="module")
def few() -> Dataset:
    """Three hundred grey images of 28 px to train on, a hundred to validate with."""
    data = datasets.load()
    return replace(
        data,
        train_images=data.train_images[::34][:300],
        train_labels=data.train_labels[::34][:300],
        val_images=data.val_images[::20],
        val_labels=data.val_labels[::20],
    )


def test_the_bundled_schedules_are_those_of_their_sources() -> None:
    assert bundled_names(BUNDLED) == ["default", *(f"efficientnet_v2_{size}" for size in "lms")]
    default = Schedule.load("default")
    reached = [default.at(progress, 300).size for progress in (0, 0.29, 0.3, 0.59, 0.6, 0.89, 0.9, 0.999)]
    assert reached == [128, 128, 192, 192, 256, 256, 300, 300]
    assert [default.at(progress, 32).size for progress in (0, 0.3, 0.6, 0.9)] == [14, 20, 27, 32]
    ends = {"s": (300, 15, 0, 0.3), "m": (380, 20, 0.2, 0.4), "l": (380, 25, 0.5, 0.5)}
    for name, (size, magnitude, alpha, dropout) in ends.items():
        schedule = Schedule.load(f"efficientnet_v2_{name}")
        assert schedule.at(0, size) == Stage(128, 5, 0, 0.1)
        assert schedule.at(0.99, size) == Stage(size, magnitude, alpha, dropout)
        assert [a <= b for a, b in zip(schedule.dropout, schedule.dropout[1:], strict=False)] == [True] * 3
    assert Schedule.of(default.table(), "here") == default


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "until = [0.5, 1]",
            "until = [0.5, 0.9]",
            r"until must rise from stage to stage and end with 1, got \[0.5, 0.9",
        ),
        ("until = [0.5, 1]", "until = [1, 1]", "until must rise"),
        ("until = [0.5, 1]", "until = []", "until must have one entry a stage"),
        ("size = [1, 2]", "size = [2, 1]", "size must not fall"),
        ("size = [1, 2]", "size = [1, 2, 3]", "size must have one entry a stage, as until has, got 3"),
        ("size = [1, 2]", "size = 2", "size must be a list of numbers"),
        ("[5, 9]", "[5, 31]", "randaugment must be from 0 to 30, got 31"),
        ("[5, 9]", "[5, 9.5]", "randaugment must be a list of whole numbers"),
        ("[0, 0.1]", "[0, nan]", "dropout must be from 0 to 0.999, got nan"),
        ("mixup", "mix_up", "unknown key 'mix_up'; nearest is 'mixup'"),
        ("mixup = [0, 0.2]\n", "", "key 'mixup' is missing"),
    ],
)
def test_an_impossible_schedule_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(GOOD)
    assert Schedule.load(str(file)).name == "s"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(UserError, match=said) as caught:
        Schedule.load(str(file))
    assert "s.toml" in str(caught.value)
    with pytest.raises(UserError, match="unknown schedule 'defualt'; nearest is 'default'"):
        Schedule.load("defualt")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_resized_augmented_and_mixed(channels: int) -> None:
    pixels = torch.randint(0, 256, (16, 12, 12, channels), dtype=torch.uint8)
    labels = torch.arange(16) % 4
    plain, same = Stage(12, 0, 0, 0).augmented(pixels, labels, 4)
    assert torch.equal(plain, pixels.float())
    assert same is labels
    small, _ = Stage(6, 0, 0, 0).augmented(pixels, labels, 4)
    assert small.shape == (16, 6, 6, channels)
    torch.testing.assert_close(small.mean(), plain.mean(), rtol=0.02, atol=0)

    torch.manual_seed(0)
    mixed, soft = Stage(12, 0, 1.0, 0).augmented(pixels, labels, 4)
    share = soft[0, 0]  # of image 0, whose label is 0; the rest is of image 15
    assert 0 < share < 1
    torch.testing.assert_close(soft.sum(1), torch.ones(16))
    torch.testing.assert_close(mixed[0], share * plain[0] + (1 - share) * plain[15])

    torch.manual_seed(0)
    changed, _ = Stage(12, 30, 0, 0).augmented(pixels, labels, 4)
    assert changed.shape == plain.shape
    assert not torch.equal(changed[:8], plain[:8]) or not torch.equal(changed[8:], plain[8:])


def test_it_repeats_itself_to_the_bit_and_is_measured_at_the_final_size(
    few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are of the stage's size, with its dropout; validation is always of the last one's."""
    trained: list[tuple[int, float]] = []
    validated: set[int] = set()
    step, accuracy = Stepper.step, nn.Module.__call__

    def spied(self: Stepper, images: torch.Tensor, *arguments: torch.Tensor) -> torch.Tensor:
        trained.append((images.shape[-1], self.model.classifier[0].p))
        return step(self, images, *arguments)  # type: ignore[arg-type]

    def seen(self: nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
        if not self.training and not torch.is_grad_enabled() and hasattr(self, "classifier"):
            validated.add(arguments[0].shape[-1])
        return accuracy(self, *arguments)

    monkeypatch.setattr(Stepper, "step", spied)
    monkeypatch.setattr(nn.Module, "__call__", seen)
    losses: list[list[float]] = [[], [], [], []]
    recipe = Recipe(epochs=2, batch_size=32, shift=0.1, progressive=ALL)
    for recipe_, seed, kept in zip((recipe, recipe, recipe, replace(recipe, progressive=None)), (3, 3, 4, 3), losses):  # noqa: B905
        outcome = train(TINY, few, recipe_, seed, "cpu", lambda p, kept=kept: kept.append(p.loss))
        kept.append(outcome.accuracy)
    assert losses[0] == losses[1] != losses[2]
    assert losses[3][0] not in losses[0]
    assert all(math.isfinite(loss) for loss in losses[0])
    assert trained[:20] == [(14, 0.1)] * 10 + [(28, 0.3)] * 10
    assert trained[-1] == (28, 0.0)
    assert validated == {28}
