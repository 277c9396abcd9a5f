"""Limited offsets keep kernel points in the image, and let those come back that an old limit let go."""

import itertools
import math

import pytest
import torch
from torch import nn

from dlka_med.layers import DCNv3, DCNv4, DeformConv
from dlka_med.layers.bounds import bounded, kernel_positions
from dlka_med.ops.geometry import Geometry

SIZE = (7, 6, 9)
GEOMETRIES = {
    "same": {"kernel_size": 3, "padding": 1},
    "dilated, strided": {"kernel_size": (3, 5, 1), "stride": (2, 1, 3), "padding": (4, 2, 0), "dilation": (3, 1, 1)},
    "even": {"kernel_size": 2, "padding": 1, "offset_groups": 2},
}
LAYERS = {
    "DeformConv": lambda dims, **limit: DeformConv(dims, 4, 4, 5, dilation=2, modulated=True, **limit),
    "DCNv3": lambda dims, **limit: DCNv3(4, 5, pad=4, dilation=2, group=2, spatial_dims=dims, **limit),
    "DCNv4": lambda dims, **limit: DCNv4(4, 5, pad=4, dilation=2, offset_scale=1.3, spatial_dims=dims, **limit),
}


def geometry_of(dims, arguments):
    return Geometry.of(dims, **{k: v[:dims] if isinstance(v, tuple) else v for k, v in arguments.items()})


@pytest.mark.parametrize("scale", [None, 1.5])
@pytest.mark.parametrize("arguments", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_bounded_is_the_rule_point_by_point(dims, arguments, scale):
    geometry, size, limit = geometry_of(dims, arguments), SIZE[:dims], 2.5
    output = geometry.output_size(size)
    torch.manual_seed(0)
    channels = geometry.offset_groups * geometry.points * dims
    offset = 3 * torch.randn(1, channels, *output, dtype=torch.float64)
    spread = None if scale is None else torch.randn(channels, dtype=torch.float64)
    found = bounded(offset, geometry, size, limit, spread)
    for g, (k, point) in itertools.product(range(geometry.offset_groups), enumerate(geometry.kernel_points)):
        for axis, place in itertools.product(range(dims), itertools.product(*map(range, output))):
            channel = (g * geometry.points + k) * dims + axis
            plain = place[axis] * geometry.stride[axis] - geometry.padding[axis] + point[axis]
            home = plain + (0 if spread is None else spread[channel].item())
            target = home + limit * math.tanh(offset[0, channel][place].item() / limit)
            target = min(max(target, min(home, 0)), max(home, size[axis] - 1))
            assert plain + found[0, channel][place].item() == pytest.approx(target, abs=1e-12)


def test_no_limit_leaves_offsets_alone():
    offset = 100 * torch.randn(1, 18, 7, 6)
    assert bounded(offset, Geometry.of(2, 3, padding=1), (7, 6), None) is offset


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_wild_predictions_never_take_a_point_out_of_the_image(build, dims):
    torch.manual_seed(1)
    x = torch.randn(1, 4, *SIZE[:dims])
    for limit, expected in ((None, True), (20.0, False)):
        layer = build(dims, offset_limit=limit)
        predictor, channels = layer.offset_predictor()
        nn.init.normal_(predictor.bias[channels].detach(), std=50)
        outside, outside_at_first = shares_outside(layer, x)
        assert (outside > outside_at_first + 0.2) is expected
        assert limit is None or outside <= outside_at_first


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_a_layer_driven_to_the_border_still_learns(build, dims):
    """Without a limit such a layer returns its bias, and no weight of it or before it gets a gradient."""
    torch.manual_seed(1)
    x = torch.randn(1, 4, *SIZE[:dims])
    for limit, dead in ((None, True), (20.0, False)):
        layer, image = build(dims, offset_limit=limit), x.clone().requires_grad_()
        predictor, channels = layer.offset_predictor()
        nn.init.constant_(predictor.bias[channels].detach(), 200.0)
        if isinstance(layer, DCNv4):
            nn.init.constant_(predictor.bias[: channels.start].detach(), 1.0)
        layer(image).square().sum().backward()
        assert (image.grad.abs().max() == 0) == dead
        weight = layer.weight if isinstance(layer, DeformConv) else layer.input_proj.weight
        assert (weight.grad.abs().max() == 0) == dead


def shares_outside(layer, x):
    """Shares of kernel points that read nothing, after moving and before: counted one axis at a time."""
    geometry, dims = layer.geometry, x.ndim - 2
    offset = layer.predict_offsets(x)[0].unflatten(1, (geometry.offset_groups, geometry.points, dims))
    spread = torch.zeros(offset.shape[1:4]) if layer.spread is None else layer.spread.view(offset.shape[1:4])
    at_first = spread.view(1, *spread.shape, *[1] * dims).expand_as(offset)
    shares = []
    for moved in (offset, at_first):
        inside = torch.ones(moved.shape[:3] + moved.shape[4:], dtype=torch.bool)
        for axis, position in enumerate(kernel_positions(geometry, moved.shape[4:], x.dtype, x.device)):
            position = position.expand(*geometry.kernel_size, *moved.shape[4:]).flatten(0, dims - 1)
            place = position + moved[:, :, :, axis]
            inside &= (place > -1) & (place < x.shape[2 + axis])
        shares.append(1 - inside.float().mean().item())
    return shares
