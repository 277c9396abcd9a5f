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


def formula(x):
    """In double precision."""
    variance, mean = torch.var_mean(x.double(), tuple(range(2, x.ndim)), keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    """The sums are above 65504, which float16 ends at."""
    torch.manual_seed(0)
    x = (2 + torch.randn(1, 2, 41, 40, 42)).to(dtype).requires_grad_()
    grad = torch.rand(x.shape).to(dtype)
    y = InstanceNorm()(x)
    exact = x.detach().double().requires_grad_()
    expected = formula(exact)
    want = torch.autograd.grad(expected, exact, grad.double())[0]
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    got = torch.autograd.grad(y, x, grad)[0].double()
    torch.testing.assert_close(got, want, rtol=0, atol=torch.finfo(dtype).eps * want.abs().max().item())


@pytest.mark.parametrize("way", ["torch.func", "compile", "plain"])
def test_gradients_of_channels_last_memory_however_they_are_asked_for(way):
    """A batch of one and a channels-last gradient, at which torch's own norm fails."""
    torch.manual_seed(0)
    x, grad = (channels_last(torch.randn(1, 6, 5, 4, 7)) for _ in range(2))

    def loss(x, norm):
        return (channels_last(norm(x)) * grad).sum()

    want = torch.func.grad(loss)(x.double(), formula)
    if way == "torch.func":
        got = torch.func.grad(loss)(x, InstanceNorm())
    else:
        norm = torch.compile(InstanceNorm(), backend="eager") if way == "compile" else InstanceNorm()
        got = torch.autograd.grad(loss(x.requires_grad_(), norm), x)[0]
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("layout", [channels_last, torch.Tensor.contiguous], ids=["channels_last", "contiguous"])
def test_second_derivatives(layout):
    x = layout(torch.randn(1, 2, 3, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradgradcheck(InstanceNorm(), x)
    weights = torch.randn_like(x)
    hessians = [
        torch.func.hessian(lambda x, f=f: (f(x) * weights).sum())(x.detach()) for f in (InstanceNorm(), formula)
    ]
    torch.testing.assert_close(*hessians)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)])
def test_nothing_to_normalise(shape):
    x = torch.zeros(shape, requires_grad=True)
    y = InstanceNorm()(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape


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
