"""How training images are varied beyond shifting, mirroring and schedules: each image of a batch by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import CutMix, MixUp

RATIO = (3 / 4, 4 / 3)  # of a crop's sides
ERASED, ERASED_RATIO = (0.02, 1 / 3), (0.3, 3.3)  # area of a blank rectangle as a share, and the ratio of its sides


def cropped(pixels: Tensor, least: float, generator: torch.Generator) -> Tensor:
    """A random part of each image, scaled up to its size: uint8 [n, h, w, c] -> uint8 [n, h, w, c].

    The part has a share of the area between `least` and 1, sides in a ratio from 3/4 to 4/3 as far as the image allows,
    and lies anywhere (Szegedy et al. 2014, arXiv 1409.4842).
    """
    height, width = _sides(len(pixels), (least, 1), RATIO, generator)
    height, width = height.clamp(max=1), width.clamp(max=1)
    down, right = (torch.rand(2, len(pixels), generator=generator, device=generator.device) * 2 - 1).unbind()
    zero = torch.zeros_like(height)
    corners = [width, zero, right * (1 - width), zero, height, down * (1 - height)]
    maps = torch.stack(corners, 1).view(-1, 2, 3).to(pixels.device)
    images = pixels.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    seen = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return seen.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def erased(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Blank a random rectangle in a share of the images: normalised [n, c, h, w], blank is 0, their mean.

    Random erasing: Zhong et al. 2017, arXiv 1708.04896.
    """
    n, (height, width) = len(images), images.shape[2:]
    sides = _sides(n, ERASED, ERASED_RATIO, generator)
    drawn = torch.rand(3, n, generator=generator, device=generator.device)
    inside = (drawn[2] < share).view(n, 1, 1)
    for axis, (length, at, extent) in enumerate(zip(sides, drawn[:2], (height, width), strict=True)):
        long = (length * extent).round().clamp(max=extent)
        start = (at * (extent - long + 1)).floor()
        steps = torch.arange(extent, device=generator.device)
        within = (steps >= start[:, None]) & (steps < (start + long)[:, None])
        inside = inside & within.unsqueeze(2 - axis)
    return images.masked_fill(inside[:, None].to(images.device), 0)


def mixed(images: Tensor, labels: Tensor, mixup: float, cutmix: float, classes: int) -> tuple[Tensor, Tensor]:
    """Mix each image with the one before it, by mixup or CutMix with these α; labels become float [n, classes].

    Mixup: Zhang et al. 2017, arXiv 1710.09412; CutMix: Yun et al. 2019, arXiv 1905.04899. With both, each piece of
    a batch gets one of them. All that is random is drawn from torch's own generator.
    """
    if cutmix and (not mixup or torch.rand(()) < 0.5):
        images, labels = CutMix(alpha=cutmix, num_classes=classes)(images, labels)
    elif mixup:
        images, labels = MixUp(alpha=mixup, num_classes=classes)(images, labels)
    return images, labels


def _sides(
    n: int, area: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Heights and widths [n], as shares of the image's, of rectangles with areas and ratios in these ranges."""
    drawn = torch.rand(2, n, generator=generator, device=generator.device)
    areas = area[0] + (area[1] - area[0]) * drawn[0]
    low, high = (math.log(end) for end in ratio)
    root = torch.exp((low + (high - low) * drawn[1]) / 2)
    return areas.sqrt() / root, areas.sqrt() * root
