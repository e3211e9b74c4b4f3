"""A trained network in one file: its weights, and with them all that is needed to use it.

The file is safetensors; its metadata holds the network as TOML, so weights and description cannot be separated.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from nas.base.errors import UserError
from nas.base.files import from_toml, write_atomic
from nas.networks.architecture import Architecture
from nas.networks.module import Network

WEIGHTS = "weights.safetensors"  # in a training's run directory


@dataclass(frozen=True)
class Inputs:
    """The images that a network was trained on, and its classes.

    Images [n, channels, image_size, image_size] of pixel values 0 to 255, less mean, by std (one number per channel).
    resize: how images became square: crop, pad (with black) or stretch. value_range: the values of images with more
    than 8 bits that became 0 and 255; None if there were none. Raises ValueError or TypeError for what cannot be.
    """

    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "crop"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        low, high = self.value_range or (0.0, 255.0)
        numbers = (*self.mean, *self.std, low, high)
        if (
            not self.classes
            or not all(isinstance(name, str) for name in self.classes)
            or not len(self.mean) == len(self.std) == self.channels
            or not all(isinstance(value, float) and isfinite(value) for value in numbers)
            or not isinstance(self.image_size, int)
            or self.image_size < 1
            or self.resize not in ("crop", "pad", "stretch")
            or min(self.std) <= 0
        ):
            raise ValueError(f"no network takes such images: {self}")

    @property
    def sentence(self) -> str:
        """How image files become the network's inputs, as a sentence."""
        how = {
            "crop": "cropped to their centre square",
            "pad": "padded with black to squares",
            "stretch": "stretched to squares",
        }
        text = f"images are {how[self.resize]}, resized to {self.image_size} px"
        if self.value_range is None:
            return text
        low, high = self.value_range
        return f"{text}; of those with more than 8 bits the values {low:g} to {high:g} become 0 to 255"

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixel values [n, c, h, w], 0 to 255, as the network takes them."""
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return (pixels.float() - mean) / std


@dataclass(frozen=True)
class Trained:
    """A network that was trained. measured: its accuracy and on which images, for display."""

    architecture: Architecture
    inputs: Inputs
    measured: Mapping[str, str | float]

    def to_toml(self) -> str:
        """The description as a TOML file, which `Architecture.load` reads too."""
        inputs = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.inputs).items()}
        return self.architecture.to_toml(self.measured, inputs)


def save(path: Path, trained: Trained, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a network's state dict and its description to one file, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomic(path, to_bytes(tensors, {"network": trained.to_toml()}))


def read(path: str | Path) -> Trained:
    """The description of the network in a file or in a training's run directory; raises UserError."""
    file = find(path)
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get("network")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a safetensors file ({str(error).splitlines()[0]})") from None
    if text is None:
        raise UserError(f"{file}: does not say which network it holds; {__name__}.save writes files that do")
    try:
        table: dict[str, Any] = from_toml(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{file}: its network is not valid TOML: {error}") from None
    try:
        inputs: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in table["inputs"].items()}
        found = Inputs(**inputs)
    except (KeyError, AttributeError, TypeError, ValueError):
        raise UserError(f"{file}: does not say what its network takes (table inputs)") from None
    return Trained(Architecture.from_table(table, str(file)), found, table.get("about", {}))


def load(path: str | Path) -> Network:
    """The trained network in a .safetensors file or in a training's run directory, in eval mode; raises UserError.

    It takes images as `read(path).inputs` says.
    """
    file = find(path)
    trained = read(file)
    model = trained.architecture.build(len(trained.inputs.classes), trained.inputs.channels)
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{file}: its weights are not those of its network: {str(error).splitlines()[0]}") from None
    return model.eval()


def find(path: str | Path) -> Path:
    """The file meant by a path, be it that of a training's run directory; raises UserError if there is none."""
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    if file.is_file():
        return file
    if path.is_dir():
        raise UserError(f"{path}: holds no trained network ({WEIGHTS}); python -m nas.train makes one")
    raise UserError(f"{path}: is neither a training's run directory nor a .safetensors file")
