"""The choice of validation images: how many are set aside, and which."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

import torch

from nas.datasets.value import ENOUGH, FEW, Dataset

MOST = 1 / 4  # largest share that is set aside


def validation_share(count: int, classes: int) -> float:
    """The share of `count` images to validate on: ENOUGH images and FEW of each class, but at most MOST of all.

    On n validation images the difference of two trainings has a standard error of sqrt(error / n), from twice the
    variance of `seed_noise`: 0.5 points on 10,000 images at 25 % error. More of them cost training images and time and
    gain little, since the trainings themselves differ by about as much. When a set of more than 40,000 images grows,
    the share falls, so that a few images move from validation to training.
    """
    return min(MOST, max(ENOUGH, FEW * classes) / count)


def reason(share: float) -> str:
    """Why `validation_share` gives this share, as part of a note."""
    return ", a quarter" if share == MOST else ", enough for differences of half a point"


def split(
    keys: Sequence[str], labels: Sequence[int], share: float, contents: Sequence[bytes | None] | None = None
) -> tuple[list[int], list[int]]:
    """Indices (kept, set aside): round(n · share) images of each class, at least one, are set aside.

    Images are chosen by the hash of their key, so the split is the same in all library versions, and a new image moves
    at most one other of its class. Images of equal content (None equals nothing) are chosen together, by the shortest
    of their keys, unless their class has no other image.
    """
    copies: dict[bytes | int, list[int]] = defaultdict(list)
    for i in sorted(range(len(keys)), key=lambda i: (len(keys[i]), keys[i])):
        content = contents[i] if contents else None
        copies[i if content is None else content].append(i)
    members: dict[int, list[list[int]]] = defaultdict(list)
    for group in sorted(copies.values(), key=lambda group: hashlib.sha256(os.fsencode(keys[group[0]])).digest()):
        members[labels[group[0]]].append(group)
    kept: list[int] = []
    aside: list[int] = []
    for groups in members.values():
        drawn = groups if len(groups) > 1 else [[i] for i in groups[0]]
        cut = max(1, round(len(drawn) * share))
        aside += chain.from_iterable(drawn[:cut])
        kept += chain.from_iterable(drawn[cut:])
    return sorted(kept), sorted(aside)


def hold_out(name: str, images: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], flip: bool) -> Dataset:
    """The Dataset that sets `validation_share` of these training images aside for validation, by their index."""
    share = validation_share(len(labels), len(classes))
    train, val = split([str(i) for i in range(len(labels))], labels.tolist(), share)
    note = f"validation: {len(val):,} of the {len(labels):,} training images{reason(share)}, set aside class by class"
    return Dataset(name, images[train], labels[train], images[val], labels[val], tuple(classes), flip, note)
