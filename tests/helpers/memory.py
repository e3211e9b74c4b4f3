"""Peak memory of a built network, counted from the operations of its forward pass."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nas import Architecture

OVERWRITING = {"native_batch_norm", "silu", "relu", "hardtanh", "hardswish", "sigmoid", "mul", "add"}  # an input
SMALL = 100  # pixels


class Traced(TorchDispatchMode):
    """Keeps each operation of a forward pass: its name, its channels if it is a depthwise
    convolution, the buffers that it reads and the one that it writes."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        weights = [*model.parameters(), *model.buffers()]
        self.weights = {tensor.untyped_storage()._cdata for tensor in weights}
        self.operations: list[tuple[str, int, set[int], int]] = []
        self.elements: dict[int, int] = {}
        self.alive: list[torch.UntypedStorage] = []  # so that no address is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_").removeprefix("_")
        depthwise = name == "convolution" and args[0].shape[1] == out.shape[1] == args[8]
        channels = out.shape[1] if depthwise else 0
        given = {self.buffer(arg) for arg in args if isinstance(arg, torch.Tensor)} - self.weights
        made = self.buffer(out[0] if isinstance(out, tuple) else out)
        if made not in self.weights:
            self.operations.append((name, channels, given, made))
        return out

    def buffer(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        self.alive.append(storage)
        self.elements[storage._cdata] = storage.nbytes() // tensor.element_size()
        return storage._cdata


def traced_peak(arch: Architecture, resolution: int, num_classes: int, in_channels: int) -> int:
    """The most elements in the buffers that are alive at once: from their making, or the start, to their last use.

    One that is read for the last time may be overwritten by an elementwise operation, and by a depthwise convolution
    that has one more channel.
    """
    device = "cpu" if resolution <= SMALL else "meta"  # which is slow, but computes nothing
    with torch.device(device), torch.no_grad():
        model = arch.build(num_classes, in_channels).eval()
        image = torch.empty(1, in_channels, resolution, resolution)
        with Traced(model) as trace:
            model(image)
    last = {buffer: i for i, (_, _, given, _) in enumerate(trace.operations) for buffer in given}
    alive, peak = {trace.buffer(image)}, 0
    for i, (name, channels, given, made) in enumerate(trace.operations):
        free = [buffer for buffer in given if last[buffer] == i]
        more = 0 if made in alive else trace.elements[made]
        if name in OVERWRITING and any(trace.elements[buffer] == more for buffer in free):
            more = 0
        elif channels and free:
            more //= channels
        peak = max(peak, sum(trace.elements[buffer] for buffer in alive) + more)
        alive = (alive - set(free)) | {made}
    return peak
