import pytest
import torch
from torch.nn import functional as F

from dlka_med.blocks.norm import ChannelNorm, InstanceNorm, norm_layer

SIZES = [(5, 7), (3, 4, 5)]


@pytest.mark.parametrize("size", SIZES)
def test_instance_norm_agrees_with_torch_in_double_precision(size):
    torch.manual_seed(0)
    x = (3 + torch.randn(2, *size, 6)).movedim(-1, 1).requires_grad_()
    grad = torch.randn_like(x)
    y = InstanceNorm()(x)
    assert y.stride() == x.stride()
    exact = x.detach().double().requires_grad_()
    expected = F.instance_norm(exact)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    got, want = torch.autograd.grad(y, x, grad)[0], torch.autograd.grad(expected, exact, grad.double())[0]
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_channel_norm_normalises_each_voxel_and_keeps_the_memory_layout(size):
    x = torch.randn(2, *size, 6).movedim(-1, 1)
    y = ChannelNorm(6)(x)
    assert y.stride() == x.stride()
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(y, expected)


def test_bad_arguments():
    with pytest.raises(ValueError, match="norm must be one of 'batch', 'instance', got 'layer'"):
        norm_layer("layer", 3, 4)
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3"):
        norm_layer("batch", 1, 4)
