"""Initialise one member of a family from the weights of another: what both have is copied.

A wider and deeper member starts as the same function: new channels feed only new ones, and new blocks start as the
identity, as all blocks without a final activation do after `zero_init`. Cf. Net2Net (Chen et al. 2015, arXiv
1511.05641), which splits channels instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from nas.base.errors import UserError
from nas.networks.architecture import Architecture
from nas.networks.module import Network


def check_family(small: Architecture, large: Architecture, origin: str) -> None:
    """Raise UserError if two networks differ in more than layers, channels, resolution and norms."""

    def kind(arch: Architecture) -> Architecture:
        stages = tuple(replace(stage, repeats=2, channels=8, skip=True) for stage in arch.stages)
        return Architecture(stages, stem=8, head=8, resolution=1, activation=arch.activation)

    if kind(small) != kind(large):
        raise UserError(
            f"--pretrained {origin}: is not of this network's family: they may differ in layers, channels and "
            f"resolution, but it is {small}"
        )


@torch.no_grad()
def grow_weights(weights: Mapping[str, Tensor], model: Network) -> dict[str, Tensor]:
    """The state of a freshly built network with a smaller (or larger) member's weights in it.

    Of each tensor the overlap is copied. Where the network has more input channels, their weights to the copied outputs
    are 0.
    """
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, given in weights.items():
        if name not in state:
            continue  # of a layer that the network does not have
        own = state[name]
        overlap = tuple(slice(0, min(a, b)) for a, b in zip(own.shape, given.shape, strict=True))
        if own.ndim > 1 and own.shape[1] > given.shape[1]:
            own[overlap[0], given.shape[1] :] = 0
        own[overlap] = given[overlap].to(own.dtype)
    return state
