"""Faster convolutions on the CPU: the same results and gradients by other torch kernels.

What is slow was measured with oneDNN on x86 (`experiments/convolutions`).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def use_fast_cpu_convolutions(model: nn.Module) -> None:
    """Let every convolution of a model use `convolve`; on CUDA this only changes kernels wider than their maps."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = partial(convolve, module)  # type: ignore[method-assign]


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution of a map [n, c, h, w] by torch's fastest kernel for its size and type.

    The outer part of a kernel that meets only padding is left out: a 5x5 kernel on a 1x1 map is one multiplication. On
    the CPU a 1x1 kernel on a small map is a matrix product, and a map that a depthwise kernel may overhang on both
    sides (2x2 of 3x3, 4x4 of 5x5) is padded beforehand. In bf16 the gradients of depthwise kernels are so slow that
    these are computed in fp32, except for 3x3 kernels at stride 1.
    """
    radius, side, slow = conv.kernel_size[0] // 2, max(x.shape[2:]), x.device.type == "cpu"
    narrow = slow and torch.is_autocast_enabled("cpu")
    if slow and radius == 0 and side <= (4 if narrow else 1) and conv.groups == 1 and conv.stride == (1, 1):
        return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)
    reach = padding = min(radius, side - 1)
    inner = slice(radius - reach, radius + reach + 1)
    weight = conv.weight[:, :, inner, inner]
    if slow and conv.groups > 1 and side <= 2 * reach:
        x, padding = F.pad(x, (reach,) * 4), 0
    if narrow and conv.groups > 1 and (reach > 1 or conv.stride != (1, 1)):
        with torch.autocast("cpu", enabled=False):
            wide = F.conv2d(x.float(), weight, conv.bias, conv.stride, padding, groups=conv.groups)
        return wide.to(torch.get_autocast_dtype("cpu"))
    return F.conv2d(x, weight, conv.bias, conv.stride, padding, groups=conv.groups)
