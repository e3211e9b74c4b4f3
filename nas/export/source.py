"""What is exported: a trained network, and real images that its files are checked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas import datasets
from nas.base.errors import UserError
from nas.base.units import plural
from nas.networks.architecture import family_names
from nas.networks.module import Network
from nas.runs.lookup import facts_of, find_run
from nas.training import trained
from nas.training.trained import Inputs, Trained

CALIBRATION = 256  # training images that INT8 takes its ranges from
BATCH = 32  # images in a batch; the first image is always run alone

Answer = Callable[[Tensor], Tensor]  # images as the network takes them, float [n, c, h, w] -> logits [n, classes]


@dataclass(frozen=True, eq=False)
class Real:
    """Some images of a data set, in random order: pixels uint8 [n, c, h, w] of the network's size, labels int64 [n].

    calibration: training images; pixels and labels: validation images, of which there are `among`.
    """

    name: str
    calibration: Tensor
    pixels: Tensor
    labels: Tensor
    among: int


@dataclass(frozen=True, eq=False)
class Source:
    """A trained network, fp32, in eval mode, on the CPU; and real images, where it is known what it was trained on."""

    file: Path
    model: Network
    trained: Trained
    real: Real | None

    @property
    def inputs(self) -> Inputs:
        """What the network takes."""
        return self.trained.inputs

    def batches(self, pixels: Tensor) -> Iterator[Tensor]:
        """Pixels as the network takes them: the first image alone, then batches."""
        for part in (pixels[:1], *torch.split(pixels[1:], BATCH)):
            if len(part):
                yield self.inputs.normalised(part).contiguous()


def open_source(name: str, data: str | None, count: int) -> Source:
    """The trained network of a run or a file, with up to `count` validation images of its data; raises UserError.

    data: a data set's name or folder; None for what the run was trained on, if it is a run.
    """
    if name in family_names() or name.endswith(".toml"):
        raise UserError(
            f"{name[:200]}: is an architecture without trained weights; python -m nas.train trains it, and "
            "nas.networks.timm.to_arch_def writes an untrained one for timm"
        )
    file = trained.find(find_run(name) or Path(name))
    known = trained.read(file)
    arguments = facts_of(file.parent).get("arguments", {})
    named = arguments if isinstance(arguments.get("data"), str) else {}
    images = datasets.Source.of(named, "", data, known.inputs.resize)
    real = load_images(images, known.inputs, count) if images.name else None
    return Source(file, trained.load(file), known, real)


def load_images(source: datasets.Source, inputs: Inputs, count: int) -> Real:
    """A fixed random choice of a data set's images, as a network takes them; raises UserError if they do not fit."""
    data = datasets.load(source, image_size=inputs.image_size, value_range=inputs.value_range)
    if data.channels != inputs.channels or data.classes != inputs.classes:
        raise UserError(
            f"--data {source.name}: {_input_words(data.channels, data.classes)}; the network was trained on "
            f"{_input_words(inputs.channels, inputs.classes)}"
        )
    training, validation = (
        _random_indices(len(data.train_labels), CALIBRATION),
        _random_indices(len(data.val_labels), count),
    )
    return Real(
        data.name,
        data.train_images[training].contiguous(),
        data.val_images[validation].contiguous(),
        data.val_labels[validation],
        len(data.val_labels),
    )


def _random_indices(among: int, count: int) -> Tensor:
    return torch.randperm(among, generator=torch.Generator().manual_seed(0))[:count]


def _input_words(channels: int, classes: tuple[str, ...]) -> str:
    shown = ", ".join(name[:20] for name in classes[:3]) + (", …" if len(classes) > 3 else "")
    return f"{plural(channels, 'channel')} and {plural(len(classes), 'class', 'classes')} ({shown})"
