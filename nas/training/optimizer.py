"""The optimizer of a training: parameter groups, learning rate, one step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from nas.networks.module import Network
from nas.training.recipe import Recipe


def parameter_groups(model: Network, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups of parameters, each with its share of the learning rate; norms and biases have no weight decay.

    Each part of the network has groups of its own: torch's fused SGD wants all of a group to take their first step
    together, and parts may be frozen.
    """
    groups = []
    for part, share in (*((part, recipe.body_rate) for part in model.features), (model.classifier, 1.0)):
        everything = list(part.parameters())
        for decay, kept in (
            (recipe.weight_decay, [p for p in everything if p.ndim > 1]),
            (0.0, [p for p in everything if p.ndim <= 1]),
        ):
            groups.append({"params": kept, "weight_decay": decay, "share": share})
    return groups


def make_optimizer(groups: list[dict[str, Any]], name: str, rate: float) -> torch.optim.Optimizer:
    """adamw, sgd with Nesterov momentum 0.9, or rmsprop as EfficientNet has it (arXiv 1905.11946, section 5).

    TensorFlow adds its ε of 0.001 under the root, torch adds it outside.
    """
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, rate, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, rate, alpha=0.9, eps=0.001**0.5, momentum=0.9)
    raise ValueError(name)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate at a step counted from 0: a linear rise, then half a cosine down to 0.

    Cosine: Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts; warm-up: Goyal et al., arXiv 1706.02677.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def apply_gradients(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, rate: float, clip: float) -> None:
    """Take an optimizer step at this learning rate, of which each group gets its share.

    clip: the largest norm of all gradients together, 0 for any.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
    if clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    scaler.step(optimizer)
    scaler.update()
