"""Learned offsets are read from any module."""

import pytest
import torch
from torch import nn

from dlka_med.layers import DCNv3, DCNv4, DeformConv, read_offsets

LAYERS = {
    "DeformConv": lambda dims: DeformConv(dims, 4, 4, offset_groups=2, modulated=True),
    "DCNv3": lambda dims: DCNv3(4, group=2, spatial_dims=dims),
    "DCNv4": lambda dims: DCNv4(4, group=2, spatial_dims=dims),
}


def move(layer, g, k, step):
    """Give kernel point k of group g a constant offset."""
    bias = {DeformConv: "offset_conv", DCNv3: "offset", DCNv4: "offset_mask"}[type(layer)]
    bias, dims, points = getattr(layer, bias).bias, len(step), 3 ** len(step)
    first = 2 * points if isinstance(layer, DCNv4) else 0
    with torch.no_grad():
        bias[first + (g * points + k) * dims :][:dims] = torch.tensor(step)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_offsets_by_group_point_and_axis(build, dims):
    layer, step = build(dims), (1.0, -2.0, 0.5)[:dims]
    move(layer, 1, 4, step)
    offsets = read_offsets(layer, torch.randn(2, 4, *(6, 5, 4)[:dims]))
    assert list(offsets) == [""]
    expected = torch.zeros(2, 2, 3**dims, dims, *(6, 5, 4)[:dims])
    expected[:, 1, 4] = torch.tensor(step).view(-1, *[1] * dims)
    torch.testing.assert_close(offsets[""], expected)


def test_every_layer_of_a_module_by_name():
    module = nn.Sequential(LAYERS["DCNv3"](2), nn.ModuleDict({"inner": LAYERS["DeformConv"](2)})["inner"], nn.ReLU())
    nn.init.normal_(module[0].offset.weight)
    nn.init.normal_(module[1].offset_conv.weight)
    x = torch.randn(1, 4, 6, 5)
    offsets = read_offsets(module, x)
    assert list(offsets) == ["0", "1"]
    torch.testing.assert_close(offsets["0"].flatten(1, 3), module[0].predict_offsets(x)[0])
    torch.testing.assert_close(offsets["1"].flatten(1, 3), module[1].predict_offsets(module[0](x))[0])
    assert not offsets["0"].requires_grad
    assert read_offsets(nn.ReLU(), x) == {}


def test_the_module_is_left_as_it_was():
    norm = nn.BatchNorm2d(4)
    module = nn.Sequential(LAYERS["DCNv3"](2), norm, nn.Dropout(0.5).eval())
    with pytest.raises(ValueError, match="x: expected shape"):
        read_offsets(module, torch.zeros(1, 3, 4, 4))
    read_offsets(module, torch.randn(1, 4, 4, 4))
    assert [part.training for part in module] == [True, True, False]
    assert norm.num_batches_tracked == 0
    assert not any(part._forward_pre_hooks for part in module.modules())
