"""The network of an architecture, from torchvision's parts and with torchvision's module names.

So `torchvision.models.efficientnet_*` state dicts load as they are. The layers come from `blocks.py`.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import nn
from torchvision.ops.misc import Conv2dNormActivation
from torchvision.ops.misc import SqueezeExcitation as SqueezeExcitationModule
from torchvision.ops.stochastic_depth import StochasticDepth

from nas.base.errors import UserError
from nas.networks import blocks
from nas.networks.blocks import Conv, Layer, SqueezeExcitation

if TYPE_CHECKING:
    from nas.networks.architecture import Architecture

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}


class Block(nn.Module):
    """The layers of one block, with its residual connection and stochastic depth if it has one."""

    def __init__(self, layers: list[nn.Module], residual: bool, drop_path: float) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)
        self.residual = residual
        self.stochastic_depth = StochasticDepth(drop_path, "row")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] -> [n, c', h', w']."""
        result: torch.Tensor = self.block(x)
        if self.residual:
            result = self.stochastic_depth(result) + x
        return result


class Network(nn.Module):
    """Features, pooling and classifier of an architecture, which is kept as `architecture`."""

    def __init__(
        self, arch: Architecture, num_classes: int, in_channels: int, dropout: float, drop_path: float
    ) -> None:
        super().__init__()
        self.architecture = arch
        norm = partial(nn.BatchNorm2d, eps=arch.norm_eps, momentum=arch.norm_momentum)

        def modules(described: blocks.Block) -> list[nn.Module]:
            activation = _ACTIVATIONS[described.activation or arch.activation]
            return [module(layer, norm, activation) for layer in described.layers]

        stem, *inner, head = arch.walk(in_channels=in_channels)
        features, count = modules(stem), 0
        for _, stage in groupby(inner, key=lambda described: described.stage):
            members = []
            for described in stage:
                members.append(Block(modules(described), described.residual, drop_path * count / len(inner)))
                count += 1
            features.append(nn.Sequential(*members))
        self.features = nn.Sequential(*features, *modules(head))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout, inplace=True), nn.Linear(arch.head, num_classes))
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [n, in_channels, h, w] -> logits [n, num_classes]."""
        x = self.avgpool(self.features(x))
        logits: torch.Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def build(
    arch: Architecture,
    num_classes: int = 1000,
    in_channels: int = 3,
    dropout: float = 0.2,
    drop_path: float = 0.2,
) -> Network:
    """Build a freshly initialised network; drop_path grows linearly to its value at the last block.

    dropout and drop_path are probabilities in [0, 1). Raises UserError for impossible arguments.
    """
    for name, number in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(number, int) or number < 1:
            raise UserError(f"{name} must be a whole number of at least 1, got {number}")
    for name, share in (("dropout", dropout), ("drop_path", drop_path)):
        if not 0 <= share < 1:
            raise UserError(f"{name} must be at least 0 and below 1, got {share}")
    return Network(arch, num_classes, in_channels, dropout, drop_path)


def module(layer: Layer, norm: partial[nn.BatchNorm2d], activation: type[nn.Module]) -> nn.Module:
    """The torch module of one described layer."""
    match layer:
        case Conv():
            made: nn.Module = Conv2dNormActivation(
                layer.in_channels,
                layer.out_channels,
                layer.kernel,
                layer.stride,
                groups=layer.groups,
                norm_layer=norm,
                activation_layer=activation if layer.activation else None,
                inplace=False,  # SiLU in place keeps a copy of its input for the gradient
            )
        case SqueezeExcitation():
            made = SqueezeExcitationModule(layer.channels, layer.squeeze, activation=partial(activation, inplace=True))
        case _:
            raise TypeError(f"no module for {layer}")
    return made


def initialise(network: nn.Module) -> None:
    """EfficientNet's initialisation, as torchvision does it: He for convolutions, uniform for the classifier."""
    for m in network.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear):
            bound = m.out_features**-0.5
            nn.init.uniform_(m.weight, -bound, bound)
            nn.init.zeros_(m.bias)


@torch.no_grad()
def zero_init(model: nn.Module) -> None:
    """Start residual branches and logits at zero, so that the first steps of a training already learn.

    Zero scale in the last batch norm of a residual branch: Goyal et al. 2017, arXiv 1706.02677, section 5.1.
    """
    for module in model.modules():
        if isinstance(module, Block) and module.residual:
            last = list(module.block.modules())[-1]
            if isinstance(last, nn.BatchNorm2d):  # not before an activation: a ReLU passes no gradient at zero
                nn.init.zeros_(last.weight)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
