"""The recipe: how a network is trained in full, as a value and as a TOML file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from nas.base.errors import UserError
from nas.base.files import read_toml
from nas.base.units import check_range
from nas.networks.architecture import bundled_path, check_keys
from nas.training.schedule import Phase, Schedule

BUNDLED = "nas.search_spaces.recipes"
DEFAULT, FINETUNE, PROXY = "default", "finetune", "proxy"  # from scratch, from pretrained weights, to rank networks
OPTIMIZERS = ("adamw", "sgd", "rmsprop")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. Raises UserError.

    name: for display. epochs: passes over the training images. batch_size: images per optimizer step. learning_rate:
    its peak, at this batch size; body_rate: the share of it that all layers but the classifier get, in (0, 1].
    weight_decay: not applied to norms and biases. warmup: share of the steps with a rising learning rate; a cosine to 0
    follows. clip: largest gradient norm, 0 for no limit. ema: decay of the running average of the weights, 0 for none.
    label_smoothing, dropout, drop_path: shares in [0, 1). Images: crop, the least share of the area that a random crop
    keeps, 1 for none; shift, the largest random translation as a share of the side; flip, whether half are mirrored
    where the data set allows it; randaugment, the magnitude on torchvision's scale (0 to 30, 0 for none); erase, the
    share of images with a rectangle blanked; mixup and cutmix, their α, 0 for none, and with both one of them at
    random. unfreeze: share of the training after which nothing is frozen any more, 0 to keep frozen parts frozen.
    progressive: a schedule by which the image size, RandAugment, mixup and dropout grow, in place of those here.
    """

    name: str = field(default=DEFAULT, compare=False)
    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float = 4e-3
    body_rate: float = 1.0
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    crop: float = 1.0
    shift: float = 0.0
    flip: bool = True
    randaugment: int = 0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    unfreeze: float = 0.0
    progressive: Schedule | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        for names, low, high in _RANGES:
            for name in names:
                check_range(name, getattr(self, name), low, high)

    @classmethod
    def load(cls, name: str) -> Recipe:
        """A bundled recipe by name, or a .toml file by path; missing settings are as in `Recipe`."""
        path = bundled_path(name, BUNDLED, "recipe")
        table = read_toml(path)
        plain = {field.name: field for field in fields(cls)}
        check_keys(table, set(plain) - {"name"}, set(), name)
        for key, value in table.items():
            kind = str if key == "progressive" else type(plain[key].default)
            if not (type(value) is kind or (kind is float and type(value) is int)):
                words = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
                raise UserError(f"{name}: {key} must be {words[kind]}, got {str(value)[:40]}")
        if "progressive" in table:
            table["progressive"] = Schedule.load(table["progressive"])
        try:
            return cls(**{"name": path.stem, **table})
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    @classmethod
    def of_run(cls, facts: Mapping[str, Any], where: str) -> Recipe:
        """The recipe of a search by the facts of its run.toml, or the default of searches; raises UserError.

        Settings that older versions did not write were off.
        """
        saved = facts.get("proxy")
        if not isinstance(saved, Mapping):
            return cls.load(PROXY)
        known = {"name": PROXY, **{name: saved[name] for name in (f.name for f in fields(cls)) if name in saved}}
        if "progressive" in facts:
            known["progressive"] = Schedule.of(facts["progressive"], f"{where}, progressive")
        try:
            return cls(**known)
        except UserError as error:
            raise UserError(f"{where}, proxy: {error}") from None

    def table(self) -> dict[str, Any]:
        """Its table in run.toml; the schedule has a table of its own there."""
        return asdict(replace(self, progressive=None))

    def for_batch(self, batch_size: int) -> Recipe:
        """The same for another batch size: the learning rate in proportion, for AdamW to its square root.

        Goyal et al. 2017, arXiv 1706.02677; Malladi et al. 2022, arXiv 2205.10287.
        """
        factor = batch_size / self.batch_size
        rate = self.learning_rate * (factor**0.5 if self.optimizer == "adamw" else factor)
        return replace(self, batch_size=batch_size, learning_rate=rate)

    def batches(self, images: int) -> int:
        """Steps of an epoch with this number of images: batch sizes differ by one at most."""
        return math.ceil(images / self.batch_size)

    def phase(self, progress: float, image_size: int) -> Phase:
        """The phase after a share of the steps, in [0, 1), of a training for images of this size in pixels."""
        if self.progressive:
            return self.progressive.at(progress, image_size)
        return Phase(image_size, self.randaugment, self.mixup, self.dropout)

    def frozen(self, progress: float, parts: int) -> int:
        """How many of the initially frozen `parts` still are after a share of the epochs: the last are freed first."""
        if not self.unfreeze:
            return parts
        return max(0, round(parts * (1 - progress / self.unfreeze)))


_RANGES = (
    (("epochs",), 1, 100_000),
    (("batch_size",), 2, 1_000_000),
    (("learning_rate",), 1e-12, 1e6),
    (("body_rate",), 1e-6, 1),
    (("weight_decay",), 0, 1e3),
    (("clip",), 0, 1e12),
    (("ema",), 0, 0.999999),
    (("warmup", "label_smoothing", "dropout", "drop_path"), 0, 0.999),
    (("crop",), 0.01, 1),
    (("shift",), 0, 0.5),
    (("randaugment",), 0, 30),
    (("erase", "unfreeze"), 0, 1),
    (("mixup", "cutmix"), 0, 10),
)
