"""The optimizer of a training: parameter groups, learning rate, one step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from nas.networks.module import Network
from nas.training.recipe import Recipe


def make_optimizer(model: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """adamw, sgd with Nesterov momentum 0.9, or rmsprop as EfficientNet has it (arXiv 1905.11946, section 5).

    Each group of parameters has its share of the learning rate; norms and biases have no weight decay. Each part of the
    network has groups of its own: torch's fused SGD needs all of a group to take their first step together, and parts
    may be frozen. TensorFlow's rmsprop adds its ε of 0.001 under the root, torch's adds it outside.
    """
    groups: list[dict[str, Any]] = []
    for part, share in (*((part, recipe.body_rate) for part in model.features), (model.classifier, 1.0)):
        weights = [p for p in part.parameters() if p.ndim > 1]
        others = [p for p in part.parameters() if p.ndim <= 1]
        groups.append({"params": weights, "weight_decay": recipe.weight_decay, "share": share})
        groups.append({"params": others, "weight_decay": 0.0, "share": share})
    match recipe.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, recipe.learning_rate, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, recipe.learning_rate, momentum=0.9, nesterov=True, fused=True)
        case _:
            return torch.optim.RMSprop(groups, recipe.learning_rate, alpha=0.9, eps=0.001**0.5, momentum=0.9)


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

    clip: the largest norm of all gradients together, 0 for no limit.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
    if clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    scaler.step(optimizer)
    scaler.update()
