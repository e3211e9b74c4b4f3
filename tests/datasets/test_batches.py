"""Images in batches: resized, normalised, moved, mirrored, and kept where there is room."""

import pytest
import torch
from torch.nn import functional as F

from nas import datasets
from nas.datasets.batches import Images, channel_statistics, resized, storage_device

CPU = torch.device("cpu")


def test_images_that_would_fill_a_gpu_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (2000, 9000) if where == gpu else (0, 0))
    for mapped in (False, True):
        assert [storage_device(size, mapped, gpu) for size in (1000, 1001)] == [gpu, CPU]
        assert storage_device(10**18, mapped, CPU) == CPU
    assert [storage_device(10, mapped, torch.device("mps")).type for mapped in (False, True)] == ["mps", "cpu"]


def test_resizing_keeps_the_picture() -> None:
    pictures = datasets.load().val_images[:50]
    small = resized(pictures, 14)
    assert small.shape == (50, 1, 14, 14)
    assert small.dtype == torch.uint8
    assert (small.float() - F.avg_pool2d(pictures.float(), 2)).abs().mean() < 10  # of 255


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    pixels = torch.randint(0, 256, (700, 3, 6, 6), dtype=torch.uint8)
    pixels[:, 2] = 7  # a constant channel
    images = Images(pixels.permute(0, 2, 3, 1).contiguous(), torch.zeros(700), *channel_statistics(pixels))
    values = images.normalize(images.pixels)
    assert values.shape == pixels.shape
    assert values.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(values.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.std((0, 2, 3)), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)


def test_augmentation_moves_and_mirrors_single_images() -> None:
    picture = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8, 1)
    images = Images(picture, torch.zeros(1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    chosen, generator = torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0)
    same, _ = images.sample(chosen, 0, False, generator)
    assert torch.equal(same, picture.expand(200, -1, -1, -1))
    seen = {tuple(x.flatten().tolist()) for x in images.sample(chosen, 0, True, generator)[0]}
    assert seen == {tuple(same[0].flatten().tolist()), tuple(same[0].flip(1).flatten().tolist())}
    moved, _ = images.sample(chosen, 0.125, False, generator)
    assert set(moved[:, 4, 4, 0].tolist()) == {36 + 8 * row + column for row in (-1, 0, 1) for column in (-1, 0, 1)}
