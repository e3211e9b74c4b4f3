"""Progressive learning: image size and regularization grow together, stage by stage, while a network trains.

Tan & Le 2021 (EfficientNetV2, arXiv 2104.00298), section 4: small images early on need little regularization.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from torch import nn

from nas.base.errors import UserError
from nas.base.files import read_toml
from nas.base.units import check_range
from nas.networks.architecture import bundled_path, check_keys

BUNDLED = "nas.search_spaces.schedules"
SMALLEST = 8  # pixels


@dataclass(frozen=True)
class Phase:
    """A part of a training: image size in pixels, RandAugment's magnitude (torchvision's, 0 to 30), mixup's α, dropout.

    Magnitude 0 is no RandAugment at all, α = 0 no mixup.
    """

    size: int
    randaugment: int
    mixup: float
    dropout: float

    def set_dropout(self, model: nn.Module) -> None:
        """Set the dropout of a model."""
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = self.dropout


@dataclass(frozen=True)
class Schedule:
    """The stages of a training as columns of equal length, one entry a stage. Raises UserError.

    until: the share of all steps at which a stage ends, rising to 1. size: relative to the last, which stands for the
    image size that is trained for; never falling. randaugment, mixup, dropout: as in `Phase`.
    """

    name: str
    until: tuple[float, ...]
    size: tuple[float, ...]
    randaugment: tuple[int, ...]
    mixup: tuple[float, ...]
    dropout: tuple[float, ...]

    def __post_init__(self) -> None:
        for column, low, high in _RANGES:
            values = getattr(self, column)
            if len(values) != len(self.until) or not values:
                raise UserError(f"{self.name}: {column} must have one entry a stage, as until has, got {len(values)}")
            for value in values:
                check_range(f"{self.name}: {column}", value, low, high)
        if self.until[-1] != 1 or any(a >= b for a, b in pairwise(self.until)):
            raise UserError(f"{self.name}: until must rise from stage to stage and end with 1, got {list(self.until)}")
        if any(a > b for a, b in pairwise(self.size)):
            raise UserError(f"{self.name}: size must not fall from stage to stage, got {list(self.size)}")

    @classmethod
    def load(cls, name: str) -> Schedule:
        """A bundled schedule by name, or a .toml file by path; raises UserError."""
        path = bundled_path(name, BUNDLED, "schedule")
        return cls.of({"name": path.stem, **read_toml(path)}, str(name))

    @classmethod
    def of(cls, table: Mapping[str, Any], where: str) -> Schedule:
        """The schedule that a table of TOML holds; raises UserError, which says where."""
        known = {field.name for field in fields(cls)}
        check_keys(table, known, known, where)
        for column, low, _ in _RANGES:
            values, kinds = table[column], (int,) if column == "randaugment" else (int, float)
            if not isinstance(values, list) or not all(type(value) in kinds for value in values):
                what = "whole numbers" if column == "randaugment" else "numbers"
                raise UserError(f"{where}: {column} must be a list of {what}, like [{low:g}, 1], one entry a stage")
        try:
            return cls(str(table["name"]), *(tuple(table[column]) for column, _, _ in _RANGES))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def table(self) -> dict[str, Any]:
        """The inverse of `of`, as it stands in run.toml."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def sentence(self, image_size: int) -> str:
        """The schedule as a sentence, for a training on images of this size in pixels."""
        sizes = [self.at(until - 1e-9, image_size).size for until in self.until]
        return f"progressive {self.name}: training images of {', '.join(map(str, sizes))} px in turn"

    def at(self, progress: float, image_size: int) -> Phase:
        """The phase after a share of the steps, in [0, 1), of a training for images of this size in pixels."""
        i = next(i for i, end in enumerate(self.until) if progress < end)
        pixels = max(min(SMALLEST, image_size), round(image_size * self.size[i] / self.size[-1]))
        return Phase(pixels, self.randaugment[i], self.mixup[i], self.dropout[i])


_RANGES = (
    ("until", 1e-6, 1),
    ("size", 1, 4096),
    ("randaugment", 0, 30),
    ("mixup", 0, 10),
    ("dropout", 0, 0.999),
)
