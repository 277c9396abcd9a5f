"""Learned offsets are read from any module."""

import math

import pytest
import torch
from torch import nn

from dlka_med.layers import (
    DCNv3,
    DCNv4,
    DeformConv,
    measure_deformation,
    offset_parameters,
    outputs_without,
    predicting_parts,
    read_offsets,
    visit_points,
    without_offsets,
)

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


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_deformation_in_numbers(build, dims):
    """One of the points of one group moves past the image, one by half a voxel; kernels of 3 on 6 x 5 (x 4)."""
    layer, size = build(dims), (6, 5, 4)[:dims]
    move(layer, 0, 0, (50.0, 0.0, 0.0)[:dims])
    move(layer, 1, 4, (0.0, 0.5, 0.0)[:dims])
    points = 3**dims
    at_first = [
        sum(0 <= place + step - 1 < extent for place in range(extent)) / extent for extent in size for step in range(3)
    ]
    inside = torch.tensor(at_first).view(dims, 3)
    shares = inside[0].view(-1, 1) * inside[1]
    if dims == 3:
        shares = shares.unsqueeze(-1) * inside[2]
    found = measure_deformation(layer, torch.randn(2, 4, *size))[""]
    assert found.outside_undeformed == pytest.approx(1 - shares.mean().item())
    gone = shares.flatten()[0].item() / (2 * points)
    # Half a voxel never reaches a whole one beyond the border: that point stays where it can read.
    assert found.outside == pytest.approx(found.outside_undeformed + gone)
    assert found.displacement == pytest.approx(50.5 / (2 * points))
    assert found.largest == 50


def test_the_spread_of_a_scaled_kernel_is_no_displacement():
    layer = DCNv3(4, offset_scale=4.0, group=2)
    found = measure_deformation(layer, torch.randn(1, 4, 6, 6))[""]
    assert (found.displacement, found.largest) == (0, 0)
    # Points 4 voxels from the centre of 6: 2 of 6 positions keep one inside, along each axis with such a point.
    assert found.outside == found.outside_undeformed == pytest.approx(1 - ((1 + 2 / 6 + 2 / 6) / 3) ** 2)


def test_points_at_their_limit_are_counted():
    """One of 9 points, for one of 2 groups, far from the border."""
    layer = DeformConv(2, 4, 4, offset_groups=2, offset_limit=2.0)
    move(layer, 1, 4, (0.0, 40.0))
    x = torch.randn(1, 4, 9, 40)
    held = measure_deformation(layer, x)[""].at_limit
    # The last column has no room at all, the one before it one voxel.
    assert held == pytest.approx(38 / 40 / 18)
    move(layer, 1, 4, (0.0, 2.0))
    assert measure_deformation(layer, x)[""].at_limit == 0


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_offsets_switched_off_for_a_while(build):
    torch.manual_seed(0)
    module = nn.Sequential(build(2), build(2))
    for parameter in offset_parameters(module):
        nn.init.normal_(parameter)
    x = torch.randn(1, 4, 6, 5)
    before, kept = module(x), {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modulation = module[1].predict_offsets(x)[1]
    with without_offsets(module, ["1"]):
        moved = read_offsets(module, x)
        assert moved["0"].abs().max() > 0.1
        assert not moved["1"].any()
        torch.testing.assert_close(module[1].predict_offsets(x)[1], modulation)
        assert (module(x) - before).abs().max() > 1e-3
    with without_offsets(module):
        assert not any(offsets.any() for offsets in read_offsets(module, x).values())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, kept[name])


def test_offsets_of_a_predictor_that_two_layers_share_come_back():
    module = nn.Sequential(LAYERS["DeformConv"](2), LAYERS["DeformConv"](2))
    module[1].offset_conv = module[0].offset_conv
    kept = nn.init.normal_(module[0].offset_conv.weight).clone()
    for names in (None, ["0", "0"]):
        with without_offsets(module, names):
            assert not read_offsets(module, torch.randn(1, 4, 6, 5))["1"].any()
        assert torch.equal(module[1].offset_conv.weight, kept)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (LAYERS["DeformConv"], {"offset_conv.weight", "offset_conv.bias"}),
        (LAYERS["DCNv3"], {"offset.weight", "offset.bias", "mask.weight", "mask.bias"}),
        (LAYERS["DCNv4"], {"offset_mask.weight", "offset_mask.bias"}),
    ],
)
def test_what_predicts_offsets(build, names):
    layer = build(2)
    found = {id(parameter) for parameter in offset_parameters(nn.Sequential(layer, nn.Conv2d(4, 4, 1)))}
    assert {name for name, parameter in layer.named_parameters() if id(parameter) in found} == names


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_where_a_layer_reads(build, dims):
    """Kernel points start about their output voxel, the last axis fastest; what `deform_conv` gets is the rest."""
    layer, step = build(dims), (1.0, -2.0, 0.5)[:dims]
    move(layer, 1, 4, step)
    x, seen = torch.randn(2, 4, *(6, 5, 4)[:dims]), []
    y = visit_points(layer, lambda name, points: seen.append(points), x)
    torch.testing.assert_close(y, layer(x))
    ((points,),) = (seen,)
    at, k = (3, 2, 1)[:dims], 3**dims - 2
    first = torch.tensor([k // 3**axis % 3 - 1 for axis in reversed(range(dims))]) + torch.tensor(at)
    assert points.start[(0, 1, k, slice(None), *at)].tolist() == first.tolist()
    torch.testing.assert_close(points.offsets, read_offsets(layer, x)[""].double())
    torch.testing.assert_close(points.modulation.flatten(1, 2), layer.predict_offsets(x)[1])
    assert (points.size, points.limit) == (tuple(x.shape[2:]), None)


def test_the_spread_of_a_scaled_kernel_belongs_to_its_start():
    seen = []
    visit_points(DCNv3(4, offset_scale=4.0, group=2), lambda name, points: seen.append(points), torch.randn(1, 4, 6, 6))
    assert not seen[0].offsets.any()
    assert seen[0].start[0, 0, 0, :, 2, 3].tolist() == [2 - 4, 3 - 4]


@pytest.mark.parametrize("limit", [None, 2.0])
@pytest.mark.parametrize("layer", [DCNv3, DCNv4])
def test_the_spread_of_a_scaled_kernel_is_not_read_as_offsets(layer, limit):
    layer = layer(4, offset_scale=4.0, group=2, spatial_dims=3, offset_limit=limit)
    assert not read_offsets(layer, torch.randn(1, 4, 6, 5, 4))[""].any()
    move(layer, 1, 13, (0.25, 0.0, 0.0))
    assert read_offsets(layer, torch.randn(1, 4, 20, 5, 4))[""][0, 1, 13, 0, 9].mean() == pytest.approx(
        1 if limit is None else 2 * math.tanh(1 / 2)
    )


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (LAYERS["DeformConv"], {"0.offset_conv"}),
        (LAYERS["DCNv3"], {"0.dw_conv", "0.dw_conv.conv", "0.norm", "0.offset", "0.mask"}),
        (LAYERS["DCNv4"], {"0.offset_mask"}),
    ],
)
def test_parts_that_predict(build, parts):
    assert predicting_parts(nn.Sequential(build(2), nn.Conv2d(4, 4, 1))) == parts


def test_outputs_without_a_layer_and_without_its_offsets():
    module = nn.Sequential(LAYERS["DeformConv"](2), nn.Conv2d(4, 2, 1))
    move(module[0], 0, 3, (1.0, 0.0))
    x = torch.randn(1, 4, 5, 5)
    ((name, silent, still),) = outputs_without(module, x)
    assert name == "0"
    torch.testing.assert_close(silent, module[1](torch.zeros(1, 4, 5, 5)))
    with without_offsets(module):
        torch.testing.assert_close(still, module(x))
    assert (module(x) - still).abs().max() > 1e-3
