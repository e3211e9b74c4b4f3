"""A quick convolution gives torch's own results and gradients, in fp32 and in bf16."""

import pytest
import torch
from torch import nn

from nas.training.convolutions import convolve, use_fast_cpu_convolutions


def output_and_gradients(y: torch.Tensor, x: torch.Tensor, conv: nn.Conv2d) -> list[torch.Tensor]:
    return [y.detach(), *torch.autograd.grad(y.float().square().mean(), [x, *conv.parameters()])]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 8), (5, 8), (7, 8), (5, 1)])
def test_the_same_result_and_gradients(narrow: bool, size: int, stride: int, kernel: int, groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=groups, bias=groups == 1)
    x = torch.randn(3, 8, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        quick = convolve(conv, x)
    assert quick.dtype == (torch.bfloat16 if narrow else torch.float32)
    found, expected = (output_and_gradients(y, x, conv) for y in (quick, conv(x)))
    for a, b in zip(found, expected, strict=True):
        exact = 3e-2 if narrow else 1e-5
        torch.testing.assert_close(a.float(), b, atol=exact * float(b.abs().max() + 1e-3), rtol=exact)


def test_a_whole_model_is_quickened() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 5, 1, 2, groups=8, bias=False), nn.SiLU())
    x = torch.randn(2, 3, 4, 4)
    expected = model(x)
    use_fast_cpu_convolutions(model)
    torch.testing.assert_close(model(x), expected)
