"""How training images are varied: parts of them, blanks in them, other sizes, and mixtures."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nas.datasets.batches import Images
from nas.training.augment import augment, mix
from nas.training.recipe import Recipe
from nas.training.schedule import Phase


def varied(pixels: Tensor, recipe: Recipe, phase: Phase | None = None) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, h, w, c], image i of class i % 4, as they are trained on, with pixel values as they were."""
    zero = torch.zeros(pixels.shape[-1], 1, 1)
    images = Images(pixels, torch.arange(len(pixels)) % 4, zero, zero + 1)
    phase = phase or recipe.phase(0, images.size)
    return augment(images, torch.arange(len(pixels)), recipe, phase, False, 4, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("least", [0.1, 0.6])
def test_a_crop_is_a_part_of_the_image_scaled_up(least: float) -> None:
    """In an image whose channels are ramps, the slopes of a crop tell its sides."""
    side, n = 100, 300
    ramp = torch.arange(side, dtype=torch.float32) * 2 + 10
    picture = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)], 2).to(torch.uint8)
    torch.manual_seed(0)
    crops, _ = varied(picture.expand(n, -1, -1, -1), Recipe(crop=least))
    inner = crops[:, :, 20:81, 20:81]
    width = (inner[:, 0, :, -1] - inner[:, 0, :, 0]).mean(1) / 120
    height = (inner[:, 1, -1, :] - inner[:, 1, 0, :]).mean(1) / 120
    area, ratio = width * height, width / height
    assert ((area > least - 0.03) & (area < 1.02)).all()
    assert ((ratio > 0.72) & (ratio < 1.39)).all()
    assert area.std() > 0.05
    assert inner[:, :, 30, 30].std(0).min() > 3  # they lie here and there
    assert (crops.min() >= 10) & (crops.max() <= 2 * side + 8)


def test_a_share_of_images_has_a_rectangle_blanked() -> None:
    torch.manual_seed(0)
    images, _ = varied(torch.ones(2000, 20, 20, 3, dtype=torch.uint8), Recipe(erase=0.4))
    blank = images == 0  # the mean of all images
    assert torch.equal(blank[:, 0], blank[:, 1])
    rows, columns = blank[:, 0].any(2), blank[:, 0].any(1)
    assert torch.equal(blank[:, 0], rows[:, :, None] & columns[:, None, :])
    assert blank[:, 0].flatten(1).any(1).float().mean().item() == pytest.approx(0.4, abs=0.03)


@given(st.integers(0, 10_000), st.sampled_from([(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)]))
def test_mixed_images_are_what_their_labels_say(seed: int, alphas: tuple[float, float]) -> None:
    n, classes = 6, 6
    images = torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, 3, 9, 7) * 10
    labels = torch.arange(n)
    torch.manual_seed(seed)
    x, y = mix(images.clone(), labels, *alphas, classes)
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
    x, y = mix(images, labels, 0, 0, 4)
    assert x is images
    assert y is labels


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_resized_augmented_and_mixed(channels: int) -> None:
    pixels = torch.randint(0, 256, (16, 12, 12, channels), dtype=torch.uint8)
    plain, labels = varied(pixels, Recipe())
    assert torch.equal(plain, pixels.permute(0, 3, 1, 2).float())
    assert labels.tolist() == [i % 4 for i in range(16)]
    small, _ = varied(pixels, Recipe(), Phase(6, 0, 0, 0))
    assert small.shape == (16, channels, 6, 6)
    torch.testing.assert_close(small.mean(), plain.mean(), rtol=0.02, atol=0)

    torch.manual_seed(0)
    mixed, soft = varied(pixels, Recipe(mixup=1.0))
    share = soft[0, 0]  # of image 0, whose label is 0; the rest is of image 15
    assert 0 < share < 1
    torch.testing.assert_close(soft.sum(1), torch.ones(16))
    torch.testing.assert_close(mixed[0], share * plain[0] + (1 - share) * plain[15])

    torch.manual_seed(0)
    changed, _ = varied(pixels, Recipe(randaugment=30))
    assert changed.shape == plain.shape
    assert not torch.equal(changed[:8], plain[:8]) or not torch.equal(changed[8:], plain[8:])
