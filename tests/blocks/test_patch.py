import pytest
import torch
from torch import nn

from dlka_med.blocks import PatchDownsample, PatchExpand, PatchUpsample


@pytest.mark.parametrize(("size", "stride"), [((7, 8), (2, 3)), ((5, 8, 9), (1, 2, 4)), ((4, 4, 6), 2)])
@pytest.mark.parametrize("channels", [(1, 6), (4, 6), (5, 7)])
def test_shapes_and_inverse_steps(size, stride, channels):
    dims = len(size)
    steps = (stride,) * dims if isinstance(stride, int) else stride
    down = PatchDownsample(dims, *channels, stride)
    y = down(torch.randn(2, channels[0], *size))
    small = tuple(n // s for n, s in zip(size, steps, strict=True))
    assert y.shape == (2, channels[1], *small)
    groups = y.reshape(2, down.norm.num_groups, -1)
    torch.testing.assert_close(groups.mean(-1), torch.zeros(groups.shape[:2]), atol=1e-5, rtol=0)
    up = PatchUpsample(dims, channels[1], channels[0], stride)(y)
    assert up.shape == (2, channels[0], *(n * s for n, s in zip(small, steps, strict=True)))


def test_groups_are_the_input_channels_where_they_divide():
    assert PatchDownsample(3, 32, 64, 2).norm.num_groups == 32
    assert PatchDownsample(3, 4, 6, 2).norm.num_groups == 2


@pytest.mark.parametrize("layer", [PatchDownsample, PatchExpand, PatchUpsample])
def test_bad_arguments(layer):
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3"):
        layer(1, 2, 4, 2)


@pytest.mark.parametrize("size", [(3, 4), (2, 1, 3)])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_patch_expand_is_a_transposed_conv_and_a_norm(size, scale):
    dims = len(size)
    expand = PatchExpand(dims, 6, 5, scale).double()
    nn.init.normal_(expand.norm.weight)
    nn.init.normal_(expand.norm.bias)
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    y = expand(x)
    assert y.shape == (2, 5, *(n * scale for n in size))
    assert y.stride(1) == 1
    transposed = {2: nn.functional.conv_transpose2d, 3: nn.functional.conv_transpose3d}[dims]
    weight = expand.conv.weight.reshape(*[scale] * dims, 5, 6).movedim((-1, -2), (0, 1))
    wanted = expand.norm(transposed(x, weight, stride=scale).movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(y, wanted)
    direction = torch.randn_like(y)
    inputs = (x, expand.conv.weight, expand.norm.weight)
    found, expected = (torch.autograd.grad(z, inputs, direction, retain_graph=True) for z in (y, wanted))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_head_inside_is_the_head_afterwards(dims):
    expand, head = PatchExpand(dims, 6, 5, 2), {2: nn.Conv2d, 3: nn.Conv3d}[dims](5, 3, 1)
    x = torch.randn(2, 6, *[3] * dims)
    torch.testing.assert_close(expand(x, head=head), head(expand(x)))


def test_patch_expand_needs_a_scale():
    with pytest.raises(ValueError, match="scale must be at least 1, got 0"):
        PatchExpand(2, 4, 2, 0)
