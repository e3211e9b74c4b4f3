"""A network in training: its steps, the running average of its weights, and all of its state."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from nas.devices.device import mixed_dtype
from nas.networks.module import Network
from nas.training.convolutions import quicken
from nas.training.proxy import decayed, descend, make_optimizer
from nas.training.ranks import Ranks
from nas.training.recipe import Recipe

Batch = tuple[Tensor, Tensor]  # images [n, c, h, w] and labels [n], or [n, classes] where images are mixed


class Trainee:
    """A network in training.

    A batch comes in pieces. Batch norm takes its statistics from one piece, so a step depends on how many there are,
    but not on which process takes which: processes only add up gradients. `averaged` is the network to be measured and
    kept: its weights are the running average if the recipe has one, and the norms' statistics are to be settled.
    """

    def __init__(self, model: Network, recipe: Recipe, ranks: Ranks, compiled: bool = False) -> None:
        self.model = model.to(ranks.where, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = deepcopy(model).requires_grad_(False) if recipe.ema else model
        self.recipe, self.ranks, self.compiled = recipe, ranks, compiled
        self.dtype = mixed_dtype(ranks.where)
        self.scaler = torch.amp.GradScaler(ranks.where.type, enabled=self.dtype == torch.float16)
        self.steps = 0
        self.optimizer = make_optimizer(_groups(model, recipe), recipe.optimizer, recipe.learning_rate)
        if not compiled:
            for network in {model, self.averaged}:
                quicken(network)
        self.freeze(0)

    def freeze(self, parts: int) -> None:
        """Keep the first parts of the features (the stem, the stages, the head) as they are from now on."""
        self.frozen = parts
        for i, part in enumerate(self.model.features):
            part.requires_grad_(i >= parts)
        self.forward: nn.Module = self.model
        if self.ranks.world > 1:
            own = [self.ranks.where] if self.ranks.where.type == "cuda" else None
            self.forward = DistributedDataParallel(self.model, own)
        if self.compiled:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]

    def step(self, pieces: Iterable[Batch], count: int, images: int, rate: float) -> Tensor:
        """One optimizer step on this process's pieces, `count` of them, of a batch of so many images in all processes.

        rate: the learning rate of the classifier. Returns the mean loss of the whole batch, on the device.
        """
        self.model.train()
        for part in self.model.features[: self.frozen]:
            part.eval()  # its norms keep their statistics, and nothing is dropped
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.ranks.where)
        for i, (x, y) in enumerate(pieces):
            with self._alone(i < count - 1):
                with torch.autocast(self.ranks.where.type, self.dtype, enabled=self.dtype is not None):
                    loss = F.cross_entropy(self.forward(x), y, label_smoothing=self.recipe.label_smoothing)
                loss = loss * (len(y) / images)
                # Gradients come out as means over processes; what is wanted are sums.
                torch.autograd.backward(self.scaler.scale(loss * self.ranks.world))
            total += loss.detach()
        descend(self.optimizer, self.scaler, rate, self.recipe.clip)
        self.steps += 1
        if self.recipe.ema:
            self._average()
        return self.ranks.summed(total)

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        """Those whose statistics are to be settled: all that are not frozen."""
        parts = self.averaged.features[self.frozen :]
        return [module for module in parts.modules() if isinstance(module, nn.BatchNorm2d)]

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on: tensors, numbers, lists and tables of them."""
        averaged = self.averaged.state_dict() if self.recipe.ema else {}
        kept = {"model": self.model.state_dict(), "averaged": averaged, "steps": self.steps}
        return {**kept, "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.model.load_state_dict(state["model"])
        if self.recipe.ema:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # there is none of a device that needs none
            self.scaler.load_state_dict(state["scaler"])
        self.steps = state["steps"]

    @torch.no_grad()
    def _average(self) -> None:
        """Move the average towards the weights; in the first steps faster, for the start is nothing worth keeping."""
        decay = min(self.recipe.ema, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay)

    def _alone(self, alone: bool) -> AbstractContextManager[None]:
        """While alone, gradients are kept to be added to, and not exchanged."""
        if alone and self.ranks.world > 1:
            context: AbstractContextManager[None] = self.forward.no_sync()  # type: ignore[operator]
            return context
        return nullcontext()


def _groups(model: Network, recipe: Recipe) -> list[dict[str, Any]]:
    """The optimizer's groups, each with the share of the learning rate that it gets.

    Each part has groups of its own: torch's fused SGD wants all of a group to take their first step together.
    """
    groups = []
    for part, share in (*((part, recipe.body_rate) for part in model.features), (model.classifier, 1.0)):
        groups += [{**group, "share": share} for group in decayed(part.parameters(), recipe.weight_decay)]
    return groups
