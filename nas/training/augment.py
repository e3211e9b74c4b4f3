"""Augmentation: from the numbers of training images to a batch that a network takes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import CutMix, MixUp, RandAugment, RandomErasing, RandomResizedCrop

from nas.datasets.batches import Images
from nas.training.recipe import Recipe
from nas.training.schedule import Phase

SHARED_DRAW = 8  # images that share one draw of RandAugment: torchvision applies a draw to a whole batch


def augment(
    images: Images,
    chosen: Tensor,
    recipe: Recipe,
    phase: Phase,
    flip: bool,
    num_classes: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The augmented images with these numbers, and their labels.

    Returns float [n, c, size, size], normalised, of the phase's size, and int64 [n], or float [n, classes] where images
    are mixed. Shift and mirroring draw from the generator, everything else from torch's own.
    """
    pixels, labels = images.sample(chosen, recipe.shift, recipe.flip and flip, generator)
    x = pixels.permute(0, 3, 1, 2)
    if recipe.crop < 1:
        crop = RandomResizedCrop(images.size, (recipe.crop, 1), antialias=True)
        x = torch.stack([crop(image) for image in x])
    if phase.randaugment:
        vary = RandAugment(magnitude=phase.randaugment)
        x = torch.cat([vary(part) for part in torch.split(x, SHARED_DRAW)])
    x = x.float()
    if x.shape[-1] != phase.size:
        x = F.interpolate(x, (phase.size, phase.size), mode="bilinear", antialias=True)
    x = images.normalize(x.permute(0, 2, 3, 1))
    if recipe.erase:
        erase = RandomErasing(recipe.erase)  # a blank rectangle has value 0, which is the mean
        x = torch.stack([erase(image) for image in x])
    return mix(x, labels, phase.mixup, recipe.cutmix, num_classes)


def mix(images: Tensor, labels: Tensor, mixup: float, cutmix: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix each image with the one before it, by mixup or CutMix with these α; labels become float [n, classes].

    Mixup: Zhang et al. 2017, arXiv 1710.09412; CutMix: Yun et al. 2019, arXiv 1905.04899. With both, each batch gets
    one of them.
    """
    if cutmix and (not mixup or torch.rand(()) < 0.5):
        images, labels = CutMix(alpha=cutmix, num_classes=num_classes)(images, labels)
    elif mixup:
        images, labels = MixUp(alpha=mixup, num_classes=num_classes)(images, labels)
    return images, labels
