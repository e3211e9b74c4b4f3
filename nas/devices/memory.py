"""Memory that training a network takes: predicted without training, and what there is of it."""

from __future__ import annotations

import torch

from nas.base.machine import available_memory
from nas.networks.architecture import Architecture

FLOAT = 4  # bytes
TRACED = 2  # images in a traced batch: batch norm needs several values per channel


def training_memory(arch: Architecture, batch: int) -> int:
    """Peak bytes of a training step in float32 with Adam, for a batch at the network's own resolution, predicted.

    Weights, two moments and the tensors that autograd saves for the backward pass, found by running the network on
    torch's meta device, where tensors have sizes but no content; at least weights, gradients and moments. The workspace
    of kernels is not included.
    """
    params = FLOAT * arch.cost().params
    return max(3 * params + batch * _saved_bytes(arch) // TRACED, 4 * params)


def least_memory(arch: Architecture) -> int:
    """A lower bound of the bytes for training on one image: weights, gradients, moments, convolution outputs."""
    cost = arch.cost()
    return FLOAT * (4 * cost.params + cost.activations)


def available(device: str) -> int:
    """Bytes of free memory on a device; practically unlimited for GPUs that only other machines have."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) if torch.cuda.is_available() else 2**62
    return available_memory()


def _saved_bytes(arch: Architecture) -> int:
    """Bytes that autograd saves for TRACED images, each storage once, parameters left out."""
    storages: dict[int, torch.UntypedStorage] = {}  # kept, so that none is freed and its address used anew

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.device("meta"), torch.random.fork_rng([]):
        model = arch.build().train()
        images = torch.empty(TRACED, 3, arch.resolution, arch.resolution)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(images)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    return sum(storage.nbytes() for key, storage in storages.items() if key not in weights)
