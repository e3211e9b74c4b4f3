"""The config of a training, and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.base.errors import UserError
from nas.base.units import format_count
from nas.datasets import Dataset
from nas.devices import memory
from nas.devices.device import mixed_dtype
from nas.networks.architecture import Architecture
from nas.runs.facts import environment
from nas.training.distributed import Ranks
from nas.training.pretrained import Pretrained
from nas.training.recipe import Recipe
from nas.training.trained import Inputs

LEAST = 2  # images in a microbatch: batch norm needs several


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training: one network, the images and the recipe it is trained with, and the directory of its results.

    options: as run.toml keeps them, by name. origin: what the user calls the network. mean, std: by which pixel values
    are normalised, one number per channel. microbatches: of a batch, each with batch norm statistics of its own.
    freeze: parts of the features. metric: the column that is shown first.
    """

    path: Path
    options: Mapping[str, Any]
    architecture: Architecture
    origin: str
    data: Dataset
    mean: tuple[float, ...]
    std: tuple[float, ...]
    recipe: Recipe
    microbatches: int
    freeze: int
    pretrained: Pretrained | None
    seed: int
    compiled: bool
    metric: str = "accuracy"

    @cached_property
    def inputs(self) -> Inputs:
        """The inputs and classes of the trained network."""
        data = self.data
        return Inputs(data.classes, data.channels, data.image_size, self.mean, self.std, data.resize, data.value_range)

    def facts(self, ranks: Ranks) -> dict[str, Any]:
        """The contents of run.toml: all that is needed to repeat the training."""
        recipe, given = self.recipe, self.pretrained
        return {
            "arguments": {**self.options, "processes": ranks.world},
            "network": {
                "origin": self.origin,
                "architecture": str(self.architecture),
                "fingerprint": self.architecture.hash,
            },
            "data": self.data.table(),
            "pretrained": {"origin": given.origin, "fingerprint": given.fingerprint} if given else {},
            "recipe": recipe.table(),
            "progressive": recipe.progressive.table() if recipe.progressive else None,
            **environment(str(ranks.device)),
        }

    def check(self, ranks: Ranks) -> None:
        """Raise UserError for what cannot work, before anything is written or trained."""
        if self.microbatches % ranks.world:
            raise UserError(
                f"--microbatches {self.microbatches}: {ranks.world} processes share them evenly; give {ranks.world} or "
                "a multiple of it"
            )
        parts = len(self.architecture.stages) + 2
        if self.freeze > parts:
            raise UserError(
                f"--freeze {self.freeze}: the network has {parts} parts: the stem, {parts - 2} stages, the head"
            )
        images = len(self.data.train_labels)
        smallest = images // self.recipe.batches(images) // self.microbatches
        if smallest < LEAST:
            raise UserError(
                f"--microbatches {self.microbatches}: a batch of {self.recipe.batch_size} has {smallest} images in "
                f"each, batch norm needs {LEAST}; give fewer microbatches or a larger --batch-size"
            )
        self._check_memory(smallest, ranks)

    def _check_memory(self, size: int, ranks: Ranks) -> None:
        where = str(ranks.device)
        free, arch = memory.available(where), self.architecture.at(self.data.image_size)
        half = (
            2 if mixed_dtype(ranks.device) else 1
        )  # mixed precision halves most of what is saved for the backward pass
        need = memory.training_memory(arch, size) // half
        if need > free:
            enough = self.microbatches * -(-need // max(free, 1))
            raise UserError(
                f"--batch-size {self.recipe.batch_size}: {size} images of {self.data.image_size} px at a time need "
                f"more than {format_count(need)}B to train on, {format_count(free)}B are free on {where}; "
                f"cut batches into microbatches (--microbatches {enough} or more), or make them smaller"
            )


def parse_freeze(text: str, arch: Architecture) -> int:
    """How many parts of the features are frozen: none, features (all of them), or a number; raises UserError."""
    known = {"none": 0, "features": len(arch.stages) + 2}
    if text in known:
        return known[text]
    if not text.isdecimal():
        raise UserError(f"--freeze {text[:40]!r}: give none, features, or the number of their parts from the stem on")
    return int(text[:9])
