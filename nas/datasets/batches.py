"""Batches of a data set: decoded images (uint8) on the device, from which one indexing operation takes a batch.

Images too large for the GPU, or memory-mapped from a file, stay where they are; the CPU takes their batches and moves
them to the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from tempfile import TemporaryFile

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.datasets.cache import cache_directory, memory_mapped
from nas.datasets.value import Dataset


@dataclass(frozen=True)
class Images:
    """Pixels uint8 [n, h, w, c] and labels int64 [n] in one place; mean and std [c, 1, 1] in pixel values.

    mean and std are on the device that batches are for.
    """

    pixels: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Their side in pixels."""
        return self.pixels.shape[1]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixel values [n, h, w, c] -> float [n, c, h, w], channels-last, mean 0 and deviation 1 per channel."""
        return (pixels.to(self.mean.device).permute(0, 3, 1, 2).float() - self.mean) / self.std

    def sample(self, chosen: Tensor, shift: float, flip: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pixels and labels of `chosen` [b], moved by up to `shift` of the side (edges repeated), perhaps mirrored."""
        _, height, width, _ = self.pixels.shape

        def offsets(side: int) -> Tensor:
            most = round(shift * side)
            drawn = torch.randint(-most, most + 1, (len(chosen), 1), generator=generator, device=chosen.device)
            return (torch.arange(side, device=chosen.device) + drawn).clamp(0, side - 1)

        rows, columns = offsets(height), offsets(width)
        if flip:
            mirrored = torch.rand(len(chosen), 1, generator=generator, device=chosen.device) < 0.5
            columns = torch.where(mirrored, width - 1 - columns, columns)
        pixels = self.pixels[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        return pixels.to(self.mean.device), self.labels[chosen].to(self.mean.device)


def images_of(data: Dataset, size: int | None, where: torch.device) -> tuple[Images, Images]:
    """Training and validation images on the device, resized once if need be, normalised as the training images."""
    size = size or data.image_size
    training, validation = (resized(part, size, data.mapped) for part in (data.train_images, data.val_images))
    mean, std = channel_statistics(training)
    home = storage_device(training.numel() + validation.numel(), data.mapped, where)

    def place(images: Tensor, labels: Tensor) -> Images:
        pixels = images.permute(0, 2, 3, 1).contiguous()  # mapped ones are so already, and are not copied
        return Images(pixels.to(home), labels.to(home), mean.to(where), std.to(where))

    return place(training, data.train_labels), place(validation, data.val_labels)


def storage_device(size: int, mapped: bool, where: torch.device) -> torch.device:
    """The device that holds `size` bytes of images: a GPU if they fit into half of its free memory, else the CPU."""
    roomy = size <= torch.cuda.mem_get_info(where)[0] // 2 if where.type == "cuda" else not mapped
    return where if roomy else torch.device("cpu")


def resized(images: Tensor, size: int, mapped: bool = False) -> Tensor:
    """uint8 [n, c, h, w] -> uint8 [n, c, size, size], bilinear with antialiasing; mapped ones into a temporary file."""
    if images.shape[-1] == size:
        return images
    parts = (F.interpolate(part, (size, size), mode="bilinear", antialias=True) for part in torch.split(images, 1000))
    if not mapped:
        return torch.cat(list(parts))
    with TemporaryFile(dir=cache_directory()) as file:  # it lives as long as it is mapped
        whole = memory_mapped(file, len(images), size)
    for place, part in zip(torch.split(whole, 1000), parts, strict=True):
        place.copy_(part)
    return whole


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [c, 1, 1] of each channel's pixel values; a constant channel has deviation 1."""
    totals = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for part in torch.split(images, 500):
        values = part.float()
        totals += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
    mean, square = totals / (images.numel() / images.shape[1])
    std = (square - mean**2).clamp(min=0).sqrt()
    std[std < 1e-3] = 1
    return mean.float()[:, None, None], std.float()[:, None, None]
