import pytest
import torch

from dlka_med.blocks.norm import ChannelNorm, InstanceNorm, norm_layer
from dlka_med.ops.layout import channels_last

SIZES = [(5, 7), (3, 4, 5)]
# More voxels than fit a piece, rows of one voxel and of many.
LARGE = [(513, 517), (64, 32, 40), (33, 61, 37)]


@pytest.mark.parametrize("size", SIZES + LARGE)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layout", [channels_last, torch.Tensor.contiguous], ids=["channels_last", "contiguous"])
def test_instance_norm_agrees_with_the_formula_in_double_precision(size, batch, layout):
    torch.manual_seed(0)
    x = layout(3 + torch.randn(batch, 6, *size)).requires_grad_()
    grad = channels_last(torch.randn_like(x))
    y = InstanceNorm()(x)
    assert channels_last(y) is y
    exact, axes = x.detach().double().requires_grad_(), tuple(range(2, x.ndim))
    variance, mean = torch.var_mean(exact, axes, keepdim=True, correction=0)
    expected = (exact - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    got, want = torch.autograd.grad(y, x, grad)[0], torch.autograd.grad(expected, exact, grad.double())[0]
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_instance_norm_may_be_changed_in_place_and_compiled():
    x = torch.randn(1, 4, 6, 7, 5, requires_grad=True)

    def both(x):
        return torch.nn.functional.leaky_relu(InstanceNorm()(x), inplace=True)

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    grad = channels_last(torch.randn_like(x))
    y, z = both(x), compiled(x)
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(*(torch.autograd.grad(t, x, grad)[0] for t in (y, z)))


def test_instance_norm_may_be_transformed():
    x = torch.randn(3, 1, 4, 6, 7)
    expected = torch.stack([InstanceNorm()(one) for one in x])
    torch.testing.assert_close(torch.func.vmap(InstanceNorm())(x), expected)


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
