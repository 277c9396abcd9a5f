"""The layer: starts as a plain convolution, learns offsets, exports and compiles."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlka_med.layers import DeformConv

PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SIZE = (7, 6, 5)
VARIANTS = {
    "dense": {},
    "strided": {"kernel_size": (3, 5, 1), "stride": (2, 1, 1), "bias": False},
    "depthwise": {"groups": 4, "dilation": 2, "offset_groups": 2},
    "grouped, padded": {"groups": 2, "kernel_size": 2, "padding": 1},
}


def build(dims, modulated=False, **arguments):
    """A layer of 4 channels whose offsets are no longer zero."""
    layer = DeformConv(dims, 4, 8, modulated=modulated, **arguments)
    nn.init.normal_(layer.offset_conv.weight, std=0.2)
    nn.init.normal_(layer.offset_conv.bias)
    return layer


def per_axis(value, dims):
    return value[:dims] if isinstance(value, tuple) else value


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_new_layer_is_the_plain_convolution(dims, variant, modulated):
    variant = {name: per_axis(value, dims) for name, value in variant.items()}
    layer = DeformConv(dims, 4, 8, modulated=modulated, **variant)
    shared = {name: value for name, value in variant.items() if name != "offset_groups"}
    plain = PLAIN[dims](4, 8, **{"kernel_size": 3} | shared | {"padding": layer.geometry.padding})
    plain.load_state_dict({name: t for name, t in layer.state_dict().items() if "offset" not in name})
    x = torch.randn(2, 4, *SIZE[:dims])
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-5, atol=1e-6)
    if layer.geometry.stride == (1,) * dims and "padding" not in variant:
        assert layer(x).shape[2:] == x.shape[2:]


def test_weight_and_bias_start_as_those_of_torch():
    torch.manual_seed(5)
    layer = DeformConv(3, 4, 6)
    torch.manual_seed(5)
    plain = nn.Conv3d(4, 6, 3)
    nn.Conv3d(4, 81, 3)
    bound = plain.weight[0].numel() ** -0.5
    for ours, theirs in ((layer.weight, plain.weight), (layer.bias, plain.bias)):
        assert ours.abs().max() <= bound
        assert ours.std().item() == pytest.approx(bound / 3**0.5, rel=0.4)
        assert ours.shape == theirs.shape


@pytest.mark.parametrize("dims", [2, 3])
def test_learned_offsets_and_modulation_can_be_read(dims):
    layer = build(dims, modulated=True, offset_groups=2, offset_limit=0.9)
    x = 5 * torch.randn(1, 4, *SIZE[:dims])
    offset, mask = layer.predict_offsets(x)
    points = 2 * 3**dims
    assert offset.shape == (1, points * dims, *SIZE[:dims])
    assert mask.shape == (1, points, *SIZE[:dims])
    assert 0.85 < offset.abs().max() <= 0.9
    assert mask.min() >= 0
    assert 1 < mask.max() <= 2
    predicted = layer.offset_conv(x)
    inner = (..., *[slice(2, -2)] * dims)  # two voxels from the border no point is held back
    limited = 0.9 * torch.tanh(predicted[:, : points * dims] / 0.9)
    torch.testing.assert_close(offset[inner], limited[inner])
    torch.testing.assert_close(mask, 2 / (1 + torch.exp(-predicted[:, points * dims :])))
    assert build(dims).predict_offsets(x)[1] is None


def test_constant_offsets_move_the_kernel():
    layer = DeformConv(3, 4, 8, kernel_size=1)
    with torch.no_grad():
        layer.offset_conv.bias.copy_(torch.tensor([2.0, -1.0, 0.5]))
    x = torch.randn(1, 4, 6, 7, 8)
    moved = (x[:, :, 2:, :-1, :-1] + x[:, :, 2:, :-1, 1:]) / 2
    expected = F.conv3d(moved, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x)[:, :, :-2, 1:, :-1], expected)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_parameter_learns_from_the_first_step(dims, modulated):
    layer = DeformConv(dims, 4, 8, modulated=modulated)
    layer(torch.randn(2, 4, *SIZE[:dims])).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims: expected one of (1, 2, 3), got 4"),
        ({"kernel_size": 2}, "padding: expected with the even kernel_size (2, 2, 2), got None"),
        ({"kernel_size": (3, 3)}, "kernel_size: expected an integer or 3 integers, got (3, 3)"),
        ({"groups": 3}, "in_channels: expected a multiple of groups=3, got 4"),
        ({"offset_groups": 3}, "in_channels: expected a multiple of offset_groups=3, got 4"),
        ({"out_channels": 7, "groups": 2}, "out_channels: expected a multiple of groups=2, got 7"),
        ({"offset_limit": 0}, "offset_limit: expected a positive number of voxels, got 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        DeformConv(**{"spatial_dims": 3, "in_channels": 4, "out_channels": 8} | arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("dims", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_export_keeps_the_spatial_size_free(dims):
    layer = build(dims, modulated=True).eval()
    free = {0: torch.export.Dim.DYNAMIC} | {2 + axis: torch.export.Dim.DYNAMIC for axis in range(dims)}
    program = torch.export.export(layer, (torch.randn(2, 4, *SIZE[:dims]),), dynamic_shapes=(free,))
    x = torch.randn(3, 4, *(5, 9, 8)[:dims])
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("dims", [2, 3])
def test_compile_in_one_graph(dims):
    layer = build(dims, modulated=True)
    x = torch.randn(2, 4, *SIZE[:dims])
    y = torch.compile(layer, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(y, layer(x))
    ours, expected = (torch.autograd.grad(out.square().sum(), list(layer.parameters())) for out in (y, layer(x)))
    torch.testing.assert_close(ours, expected)


def test_channels_last_stays():
    x = torch.randn(2, 4, *SIZE).contiguous(memory_format=torch.channels_last_3d)
    assert build(3, groups=4)(x).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_layer_in_other_precisions(dtype):
    layer, x = build(2), torch.randn(1, 4, 7, 6)
    expected = layer(x)
    y = layer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)
