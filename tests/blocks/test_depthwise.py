import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dlka_med.blocks.depthwise import DepthwiseConv

SHAPES = [((7, 4, 9), 3, 1), ((7, 4, 9), 5, 2), ((5, 7, 2), 7, 3), ((6, 9, 3), 3, 3), ((1, 1, 1), 5, 3), ((7, 9), 7, 3)]


@pytest.mark.parametrize(("size", "kernel_size", "dilation"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_agrees_with_the_double_precision_convolution(size, kernel_size, dilation, bias, channels_last):
    torch.manual_seed(0)
    conv = DepthwiseConv(len(size), 5, kernel_size, dilation=dilation, bias=bias)
    x = torch.randn(2, 5, *size)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    grad = torch.randn_like(x)
    inputs = [x, *conv.parameters()]
    x.requires_grad_()
    ours = conv(x)
    ours_grads = torch.autograd.grad(ours, inputs, grad)

    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    plain = {2: F.conv2d, 3: F.conv3d}[len(size)]
    expected = plain(*exact, padding=dilation * (kernel_size // 2), dilation=dilation, groups=5)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
    for got, want in zip(ours_grads, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)


def test_start_values_are_those_of_a_convolution():
    torch.manual_seed(0)
    conv = nn.Conv3d(64, 64, 5, groups=64)
    ours = DepthwiseConv(3, 64, 5)
    assert ours.weight.shape == conv.weight.shape
    for name in ("weight", "bias"):
        got, want = getattr(ours, name), getattr(conv, name)
        assert got.abs().max() <= want.abs().max() * 1.1
        torch.testing.assert_close(got.std(), want.std(), rtol=0.3, atol=0)


def test_double_precision_takes_the_plain_way():
    conv = DepthwiseConv(3, 2, 3, dilation=2).double()
    x = torch.randn(1, 2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(conv, (x,))


@pytest.mark.parametrize("size", [(3, 4, 3), (9, 8)])
def test_autocast_computes_in_single_precision(size):
    conv = DepthwiseConv(len(size), 8, 5)
    x = torch.randn(2, 8, *size).bfloat16().movedim(1, -1).contiguous().movedim(-1, 1)
    exact = torch.autograd.grad(conv(x.float()).square().mean(), list(conv.parameters()))
    used = [torch.full((n,), float("nan")) for n in (64, 1024, 16384)]
    del used  # what is read without having been written shall be NaN
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), conv(x.float()), rtol=1e-2, atol=1e-2)
    gradients = torch.autograd.grad(y.float().square().mean(), list(conv.parameters()))
    for got, want in zip(gradients, exact, strict=True):
        torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("arguments", "message"), [((4, 3, 3), "spatial_dims"), ((3, 3, 4), "kernel_size")])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DepthwiseConv(*arguments)
