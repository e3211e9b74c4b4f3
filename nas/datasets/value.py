"""The values that a data set and its source are."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any, Self

import torch

from nas.base.metrics import seed_noise, spoken

FOLDER_SIZE = 64  # default image size of folders in pixels; smaller if their images are
FEW = 10  # a class with fewer validation images gets a warning
ERROR = 1 / 4  # assumed error of a network after a short training
ENOUGH = 10_000  # validation images, which show differences of half a point at that error
PARTS = ("train_images", "train_labels", "val_images", "val_labels")

RESIZES = ("crop", "pad", "stretch")  # how an image that is not square becomes square
ValueRange = tuple[float, float]  # the pixel values of images with more than 8 bits that become 0 and 255


@dataclass(frozen=True)
class Stored:
    """Where a data set is in the cache: its file, the key it was saved under, its fingerprint.

    Outside the cache the key is "".
    """

    path: Path
    key: str
    fingerprint: str

    def to_json(self) -> str:
        """As text, in ASCII whatever bytes the path has."""
        return json.dumps([str(self.path), self.key, self.fingerprint])

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """The inverse of `to_json`; None for an empty text."""
        if not text:
            return None
        path, key, fingerprint = json.loads(text)
        return cls(Path(path), key, fingerprint)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which images are used, and how they are read.

    name: a data set's name or a folder. image_size: 8 to 1024 pixels; None keeps the size of a named set; for a folder
    it means `largest`, or less if its images are smaller. resize: how an image becomes square: its centre is cropped,
    it is padded with black, or stretched. skip_broken: leave out images that cannot be decoded, instead of refusing
    more than 1 % of them. value_range: the pixel values that become 0 and 255 in images with more than 8 bits; None for
    the lowest and highest of the training images. recheck: read every file again, even if its size and times have not
    changed. stored: where another process has cached the decoded images, which are read from there if possible.
    """

    name: str
    image_size: int | None = None
    largest: int = FOLDER_SIZE
    resize: str = "crop"
    skip_broken: bool = False
    value_range: ValueRange | None = None
    recheck: bool = field(default=False, compare=False)
    stored: Stored | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls,
        arguments: Mapping[str, Any],
        default: str,
        name: str | None = None,
        resize: str | None = None,
        skip_broken: bool | None = None,
        recheck: bool = False,
    ) -> Self:
        """The source for these options; for one that is None, the `arguments` of a run.toml, else the default."""
        return cls(
            name=name or arguments.get("data") or default,
            resize=resize or arguments.get("resize") or "crop",
            skip_broken=bool(arguments.get("skip_broken")) if skip_broken is None else skip_broken,
            recheck=recheck,
        )

    def arguments(self) -> dict[str, Any]:
        """The options for run.toml: those that results depend on."""
        return {"data": self.name, "resize": self.resize, "skip_broken": self.skip_broken or None}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Square images and their labels in two disjoint parts.

    Images are uint8 [n, channels, height, width] with height == width, labels int64 [n], counted from 0.
    resize: how images became square. value_range: of images with more than 8 bits, None where there are none.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    val_images: torch.Tensor
    val_labels: torch.Tensor
    classes: tuple[str, ...]
    flip: bool  # whether a mirrored image keeps its label
    note: str  # one line: where validation images come from, what was skipped or resized
    mapped: bool = False  # whether the images are memory-mapped from a file, channels last
    resize: str = "crop"
    value_range: ValueRange | None = None
    stored: Stored | None = None

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.train_images.shape[1]

    @property
    def image_size(self) -> int:
        """The side of the images in pixels."""
        return self.train_images.shape[2]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hex digits of a sha256 of all that training sees: classes, pixels, labels."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for part in (getattr(self, name) for name in PARTS):
            digest.update(str(tuple(part.shape)).encode())
            for piece in torch.split(part, 1000):
                digest.update(piece.contiguous().view(-1).numpy().data)
        return digest.hexdigest()[:16]

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that commands print first: the note, and warnings about misleading accuracies."""
        train, val = (torch.bincount(part, minlength=self.num_classes) for part in (self.train_labels, self.val_labels))
        return (f"data {self.name}: {self.note}", *_warnings(self.classes, val.tolist(), (train + val).tolist()))

    def seed_noise(self, metric: str = "accuracy", error: float = ERROR) -> float:
        """The standard deviation of a metric between seeds, from 0 to 1, as `nas.base.metrics.seed_noise` has it.

        error: the share of the validation images that is classified wrongly, 1/4 where none is known yet. The
        difference of two networks, each trained once, has sqrt(2) times that.
        """
        return seed_noise(metric, self.val_labels.bincount().tolist(), error)

    def difference_line(self, metric: str = "accuracy", error: float = ERROR) -> str:
        """One sentence: the smallest difference of networks that the validation images show, and what would help."""
        number, points = len(self.val_labels), 100 * sqrt(2) * self.seed_noise(metric, error)
        more = f"more of them ({ENOUGH:,} for {100 * sqrt(error / ENOUGH):.2g} points) or " if number < ENOUGH else ""
        return (
            f"{number:,} validation images show differences in {spoken(metric)} from about {points:.2g} points on (one "
            f"standard error at {100 * error:.0f} % error, each network trained once); {more}repeats (--confirm) show "
            "smaller ones"
        )

    def table(self) -> dict[str, Any]:
        """Its table in run.toml: what was trained on, and a fingerprint that shows later changes."""
        return {
            "name": self.name,
            "train": len(self.train_labels),
            "val": len(self.val_labels),
            "classes": self.num_classes,
            "image_size": self.image_size,
            "fingerprint": self.fingerprint,
            "note": self.note,
        }


def fingerprinted(data: Dataset, fingerprint: str) -> Dataset:
    """The data set with a known fingerprint, which need not be computed.

    It is stored where `cached_property` looks for it: `replace` would copy a field to other images.
    """
    data.__dict__["fingerprint"] = fingerprint
    return data


def _warnings(classes: Sequence[str], val: Sequence[int], both: Sequence[int]) -> list[str]:
    """Sentences about a class with most of the images and about those with few to validate with."""
    found = []
    most, name = max(zip(both, classes, strict=True))
    if most > sum(both) * 2 / 3:
        share = f"{100 * most / sum(both):.0f} %"
        found.append(
            f"warning: class {name} has {share} of the images, so an accuracy near {share} is worth nothing: a network "
            f"that always answers {name} has it; --metric balanced weighs all classes alike"
        )
    few = sorted((i for i in range(len(classes)) if val[i] < FEW), key=lambda i: val[i])
    if few:
        named = ", ".join(f"{classes[i]} {val[i]}" for i in few[:FEW])
        more = f" and {len(few) - FEW:,} more" if len(few) > FEW else ""
        found.append(f"warning: classes with fewer than {FEW} validation images, which tell little: {named}{more}")
    return found
