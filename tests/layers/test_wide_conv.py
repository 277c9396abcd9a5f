import pytest
import torch
from torch.nn import functional as F

from dlka_med.layers import DeformConv, WideConv
from dlka_med.layers.wide_conv import folded

SIZES = {2: (9, 7), 3: (5, 4, 6)}
CONV = {2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("offset_groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_it_has_exactly_the_parameters_of_the_deformable_convolution(spatial_dims, groups, offset_groups, bias):
    settings = {"dilation": 2, "groups": groups, "offset_groups": offset_groups, "bias": bias}
    wide = WideConv(spatial_dims, 4, 4, 3, **settings)
    deformable = DeformConv(spatial_dims, 4, 4, 3, **settings)
    assert sorted(p.shape for p in wide.parameters()) == sorted(p.shape for p in deformable.parameters())
    x = torch.randn(2, 4, *SIZES[spatial_dims])
    assert wide(x).shape == deformable(x).shape


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_it_is_the_formula(spatial_dims):
    """18 or 81 channels on 4: some of them serve one more than others."""
    torch.manual_seed(0)
    wide = WideConv(spatial_dims, 4, 4, 3, dilation=2, groups=2).double()
    x = torch.randn(2, 4, *SIZES[spatial_dims], dtype=torch.float64)
    conv = CONV[spatial_dims]
    expected = conv(x, wide.conv.weight, wide.conv.bias, padding=2, dilation=2, groups=2)
    more = F.gelu(conv(x, wide.wide.weight, wide.wide.bias, padding=2, dilation=2))
    for channel in range(more.shape[1]):
        expected[:, channel % 4] += more[:, channel]
    torch.testing.assert_close(wide(x), expected, rtol=1e-12, atol=1e-12)


def test_few_channels_serve_several():
    x = torch.arange(3.0).view(1, 3, 1, 1)
    assert folded(x, 7).flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert folded(x, 3).flatten().tolist() == [0, 1, 2]
    assert folded(x, 2).flatten().tolist() == [2, 1]
