"""Convolutions as the CPU does them quickly: the same results and gradients by other ways through torch's kernels.

What is slow was measured with oneDNN on x86, on small maps such as small images have (`experiments/proxy_throughput`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def quicken(model: nn.Module) -> None:
    """Let every convolution of a model go the quick way; on CUDA it stays as it is, but for kernels wider than maps."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = partial(convolve, module)  # type: ignore[method-assign]


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution of a map [n, c, h, w], the quick way where the map is small, as those of small images are.

    The outer part of a kernel that meets only padding is left out: a 5x5 kernel on a 1x1 map is one multiplication.
    On the CPU a 1x1 kernel on a map of up to 4x4 is twice as fast as a matrix product, and the backward pass of a
    depthwise kernel wider than its map 3 to 10 times as fast if the padding is part of the map.
    """
    radius, side, slow = conv.kernel_size[0] // 2, max(x.shape[2:]), x.device.type == "cpu"
    if slow and radius == 0 and side <= 4 and conv.groups == 1 and conv.stride == (1, 1):
        return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)
    reach = padding = min(radius, side - 1)
    inner = slice(radius - reach, radius + reach + 1)
    weight = conv.weight[:, :, inner, inner]
    if slow and conv.groups > 1 and side <= 2 * reach:
        x, padding = F.pad(x, (reach,) * 4), 0
    depthwise = 1 < conv.groups == conv.in_channels == conv.out_channels
    if slow and depthwise and conv.bias is None and torch.is_autocast_enabled("cpu"):
        narrow = torch.get_autocast_dtype("cpu")
        result: Tensor = NarrowDepthwise.apply(x.to(narrow), weight.to(narrow), conv.stride, padding)
        return result
    return F.conv2d(x, weight, conv.bias, conv.stride, padding, groups=conv.groups)


class NarrowDepthwise(torch.autograd.Function):
    """A depthwise convolution in bf16 on the CPU, whose backward pass is fp32 where that is quicker.

    In bf16 oneDNN takes 3 to 4 times as long as in fp32 for the weights' gradient of a 5x5 kernel, and 30 times for the
    map's gradient at stride 2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Sequence[int], padding: int) -> Tensor:
        """x [n, c, h, w] and weight [c, 1, k, k] of one type -> the convolution, in that type."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = list(stride), [padding, padding]
        return F.conv2d(x, weight, None, ctx.stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient [n, c', h', w'] of the result -> those of map and weight."""
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        geometry = None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], len(weight)
        backward = torch.ops.aten.convolution_backward
        wide = gradient.float(), x.float(), weight.float()
        apart = ctx.stride == [1, 1]
        of_map, of_weight, _ = backward(*wide, *geometry, [not apart, True, False])
        if apart:
            of_map, _, _ = backward(gradient, x, weight, *geometry, [True, False, False])
        return of_map.to(x.dtype), of_weight.to(weight.dtype), None, None
