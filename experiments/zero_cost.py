"""Scores of a network that has not been trained, as others use them to rank networks: higher is thought better."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops.misc import SqueezeExcitation

from nas import Architecture
from nas.networks.module import Block, Network


def madds(arch: Architecture, images: Tensor) -> float:
    """Multiply-adds."""
    return float(arch.cost().madds)


def params(arch: Architecture, images: Tensor) -> float:
    """Parameters."""
    return float(arch.cost().params)


def naswot(arch: Architecture, images: Tensor) -> float:
    """Log determinant of how alike images [n, c, h, w] switch the activations (Mellor et al. 2021, arXiv 2006.04647).

    Their kernel counts the units that two images switch alike; a SiLU counts as on where its input is positive.
    """
    model = fresh(arch, images).train()
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        on = (inputs[0].flatten(1) > 0).double()
        kernel.add_(on @ on.T + (1 - on) @ (1 - on).T)

    for module in model.modules():
        if isinstance(module, nn.SiLU | nn.ReLU):
            module.register_forward_pre_hook(look)
    with torch.no_grad():
        model(images)
    return float(torch.linalg.slogdet(kernel).logabsdet)


def synflow(arch: Architecture, images: Tensor) -> float:
    """Log of the sum over parameters of |w dR/dw|, for R the output for an image of ones with all weights positive.

    Tanaka et al. 2020, arXiv 2006.05467; norms left out: Abdelfattah et al. 2021, arXiv 2101.08134.
    """
    model = fresh(arch, images).double().eval()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    torch.autograd.backward(model(torch.ones_like(images[:1], dtype=torch.float64)).sum())
    flow = [float((p.detach() * p.grad).abs().sum()) for p in model.parameters() if p.grad is not None]
    return math.log(sum(flow))


def zen(arch: Architecture, images: Tensor, repeats: int = 4, step: float = 0.01) -> float:
    """Zen-score: log of how much features move with a Gaussian input, plus log deviations that the norms took out.

    Lin et al. 2021, arXiv 2102.01063, algorithm 1: weights N(0, 1), without residual connections and
    squeeze-excitation; mean over repeats.
    """
    scores = []
    for _ in range(repeats):
        model = fresh(arch, images).train()
        for module in model.modules():
            if isinstance(module, Block):
                module.residual = False
                for name, child in list(module.block.named_children()):
                    if isinstance(child, SqueezeExcitation):
                        setattr(module.block, name, nn.Identity())
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight)
        spread: list[Tensor] = []

        def look(_: nn.Module, inputs: tuple[Tensor, ...], spread: list[Tensor] = spread) -> None:
            spread.append(inputs[0].var((0, 2, 3)).mean().sqrt().log())

        x = torch.randn_like(images)
        moved = x + step * torch.randn_like(x)
        with torch.no_grad():
            after = model.features(moved)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.register_forward_pre_hook(look)
            before = model.features(x)
        scores.append(float((before - after).abs().mean().log() + sum(spread)))
    return sum(scores) / repeats


def fresh(arch: Architecture, images: Tensor) -> Network:
    """A new network for ten classes of such images."""
    return arch.build(10, images.shape[1], 0.0, 0.0)


SCORES: dict[str, Callable[[Architecture, Tensor], float]] = {
    "MAdds": madds,
    "parameters": params,
    "NASWOT": naswot,
    "SynFlow": synflow,
    "Zen-score": zen,
}
