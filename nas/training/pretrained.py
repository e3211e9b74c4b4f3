"""Weights to start from: torchvision's by name, a file of ours, or a state dict as torchvision saves it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor

from nas.base.errors import UserError
from nas.networks.architecture import Architecture, family_names
from nas.networks.module import Network
from nas.training import trained
from nas.training.grow import check_family, grow_weights

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean, std of pixels, as torchvision's
TORCHVISION = "torchvision"
_CLASSIFIER = "classifier.1."
_STEM = "features.0.0.weight"


@dataclass(frozen=True)
class Pretrained:
    """Weights by name, and the images that they were trained on.

    architecture: whose weights they are, None where the file does not say. classes: None where it does not say either.
    mean, std: by which pixel values were normalised, one number per channel. value_range: as of `trained.Inputs`.
    """

    origin: str
    weights: Mapping[str, Tensor]
    architecture: Architecture | None
    classes: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float] | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of all names and values."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def statistics(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """mean and std for images of `channels` channels; for grey ones the averages."""
        if channels == len(self.mean):
            return self.mean, self.std
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return (mean,) * channels, (std,) * channels


def read_pretrained(source: str, arch: Architecture) -> Pretrained:
    """The weights for this network in a file, in a training's directory, or torchvision's; raises UserError."""
    if source == TORCHVISION:
        return _torchvision(arch)
    path = Path(source)
    if path.suffix in (".pth", ".pt"):
        return _state_dict(path)
    known, weights = trained.read(path), load_file(trained.find(path))
    own, inputs = known.architecture, known.inputs
    return Pretrained(str(path), weights, own, inputs.classes, inputs.mean, inputs.std, inputs.value_range)


def _torchvision(arch: Architecture) -> Pretrained:
    """torchvision's own weights of this network, downloaded once by its loader; raises UserError."""
    name = next((name for name in published() if Architecture.load(name).at(arch.resolution) == arch), None)
    if name is None:
        raise UserError(
            f"--pretrained {TORCHVISION}: has weights of {', '.join(published())} only; this network is another"
        )
    entry = torchvision.models.get_model_weights(name)["DEFAULT"]
    try:
        weights = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        place = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"--pretrained {TORCHVISION}: {name} cannot be downloaded ({reason}); copy {place.name} to {place.parent} "
            "from a machine that has it, or give its path"
        ) from None
    transform = entry.transforms()
    scaled = [tuple(255 * value for value in values) for values in (transform.mean, transform.std)]
    return Pretrained(f"torchvision's {entry}", weights, arch, None, *scaled)


def published() -> list[str]:
    """The bundled networks that torchvision has weights of."""
    there = torchvision.models.list_models()
    return [name for name in family_names() if name.startswith("efficientnet") and name in there]


def _state_dict(path: Path) -> Pretrained:
    """A .pth file as torchvision's are; raises UserError."""
    try:
        weights = torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"--pretrained {path}: no such file") from None
    except Exception as error:  # torch meets damaged files with errors of every class
        raise UserError(f"{path}: not a file of weights alone ({str(error).splitlines()[0][:80]})") from None
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise UserError(f"{path}: want a state dict, tensors by name, as model.state_dict() gives it")
    return Pretrained(str(path), weights, None, None, *IMAGENET)


def load_pretrained(model: Network, found: Pretrained, classes: tuple[str, ...]) -> str:
    """Load pretrained weights into a freshly built network; returns a note on what was done. Raises UserError.

    The classifier is kept if the classes are the same. For grey images the stem's weights are summed over colours.
    Weights of another member of the network's family are copied as far as they overlap (`nas.training.grow`).
    """
    weights = dict(found.weights)
    keep = found.classes == classes
    if not keep:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(_CLASSIFIER)}
    own = model.state_dict()
    stem = weights.get(_STEM)
    if stem is not None and stem.ndim == 4 and stem.shape[1] == 3 and own[_STEM].shape[1] == 1:
        weights[_STEM] = stem.sum(1, keepdim=True)
    classifier = "its classifier too, for the classes are the same" if keep else "a new classifier"
    if found.architecture and found.architecture.at(model.architecture.resolution) != model.architecture:
        check_family(found.architecture, model.architecture, found.origin)
        model.load_state_dict(grow_weights(weights, model))
        return f"weights grown from {found.origin} ({found.architecture}); {classifier}"
    _check_shapes(weights, {name: t for name, t in own.items() if keep or not name.startswith(_CLASSIFIER)}, found)
    model.load_state_dict({**own, **weights})
    return f"weights of {found.origin}; {classifier}"


def _check_shapes(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], found: Pretrained) -> None:
    """Raise UserError for weights that do not fit the network; it names the first that differs."""
    for name, tensor in own.items():
        if name not in weights:
            raise UserError(f"{found.origin}: is not of this network: {name} is missing")
        if weights[name].shape != tensor.shape:
            here, there = "x".join(map(str, tensor.shape)), "x".join(map(str, weights[name].shape))
            raise UserError(f"{found.origin}: is not of this network: {name} is {there}, here it is {here}")
    if more := sorted(set(weights) - set(own)):
        raise UserError(f"{found.origin}: is not of this network, which has no {more[0]}")
