"""DCNv3 and DCNv4 against their formula by grid_sample, against the original module, and at the start."""

import importlib.util
import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlka_med.layers import DCNv3, DCNv4

SIZE = (7, 6, 9)
MARGIN = 6
PLAIN = {2: nn.Conv2d, 3: nn.Conv3d}
POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}
CONV = {2: F.conv2d, 3: F.conv3d}
VARIANTS = {
    "default": {},
    "kernel per axis": {"kernel_size": (3, 1, 5), "pad": (1, 0, 2), "group": 2},
    "strided": {"stride": (2, 1, 3), "center_feature_scale": True},
    "dilated, no padding": {"dilation": 2, "pad": 0, "dw_kernel_size": 5, "center_feature_scale": True},
    "even kernels": {"kernel_size": (2, 4, 2), "dw_kernel_size": 2, "group": 1, "offset_scale": 1.5},
    "scaled and limited": {"offset_scale": 2.0, "offset_limit": 1.5, "dw_kernel_size": (3, 7, 1), "group": 8},
}


def build(layer, dims, channels=8, **arguments):
    """A layer whose offsets and modulation are no longer constant, in float64."""
    arguments = {name: per_axis(value, dims) for name, value in arguments.items()}
    module = layer(channels, spatial_dims=dims, **arguments)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module.double()


def per_axis(value, dims):
    return value[:dims] if isinstance(value, tuple) else value


def image(dims, channels=8):
    return torch.randn(2, channels, *SIZE[:dims], dtype=torch.float64)


def at_positions(x, starts, strides, out):
    """x at `start + stride * p` of every axis, zero outside."""
    x = F.pad(x, [MARGIN] * 2 * len(out))
    for axis, (start, stride, size) in enumerate(zip(starts, strides, out, strict=True), start=2):
        x = x.index_select(axis, MARGIN + start + stride * torch.arange(size))
    return x


def by_grid_sample(module, x, arguments):
    """The layer's formula, point by point; arguments are those that the layer was built with."""
    dims = x.ndim - 2
    names = {"kernel_size": 3, "stride": 1, "pad": 1, "dilation": 1}
    values = [per_axis(arguments.get(name, default), dims) for name, default in names.items()]
    kernel, stride, pad, dilation = ((v,) * dims if isinstance(v, int) else v for v in values)
    group, scale = arguments.get("group", 4), arguments.get("offset_scale", 1.0)
    limit = arguments.get("offset_limit", math.inf)
    axes = list(zip(SIZE, kernel, stride, pad, dilation, strict=False))
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]
    middle = [d * (k - 1) // 2 for _, k, _, _, d in axes]
    centre = [m - p for m, p in zip(middle, pad, strict=True)]

    features = x
    if module.dw_conv is not None:
        weight, bias = module.dw_conv.conv.weight, module.dw_conv.conv.bias
        features = CONV[dims](F.pad(x, [MARGIN] * 2 * dims), weight, bias, groups=x.shape[1])
        first = [c + MARGIN - (k - 1) // 2 for c, k in zip(centre, weight.shape[2:], strict=True)]
        features = at_positions(features, first, stride, out)
    else:
        features = at_positions(x, centre, stride, out)
    features = features.movedim(1, -1)
    if isinstance(module, DCNv3):
        features = F.gelu(F.layer_norm(features, (8,), module.norm.weight, module.norm.bias, 1e-6))
        offset, mask = module.offset(features), module.mask(features).unflatten(-1, (group, -1)).softmax(-1)
    else:
        mask, offset = module.offset_mask(features).split(
            [group * math.prod(kernel), group * math.prod(kernel) * dims], -1
        )
        mask = mask.unflatten(-1, (group, -1))
    offset = scale * offset.unflatten(-1, (group, -1, dims))
    offset = limit * torch.tanh(offset / limit) if limit < math.inf else offset

    values = module.input_proj(x.movedim(1, -1)).movedim(-1, 1)
    y = torch.zeros(2, group, 8 // group, *out, dtype=x.dtype)
    positions = torch.stack(torch.meshgrid(*(torch.arange(n) for n in out), indexing="ij"), -1)
    for g, (k, point) in itertools.product(range(group), enumerate(itertools.product(*map(range, kernel)))):
        shift = [scale * (i * d - m) for i, d, m in zip(point, dilation, middle, strict=True)]
        home = positions * torch.tensor(stride) + torch.tensor(centre) + torch.tensor(shift)
        place = home + offset[..., g, k, :]
        if limit < math.inf:
            place = place.maximum(home.clamp(max=0)).minimum(home.maximum(torch.tensor(SIZE[:dims]) - 1))
        place = (2 * place / (torch.tensor(SIZE[:dims]) - 1) - 1).flip(-1)
        sampled = F.grid_sample(values.unflatten(1, (group, -1))[:, g], place, align_corners=True)
        y[:, g] = y[:, g] + mask[..., g, k].unsqueeze(1) * sampled
    if arguments.get("center_feature_scale"):
        share = module.center_scale(features).sigmoid().movedim(-1, 1).unsqueeze(2)
        y = y * (1 - share) + share * at_positions(values, centre, stride, out).unflatten(1, (group, -1))
    return module.output_proj(y.flatten(1, 2).movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("layer", [DCNv3, DCNv4])
def test_output_and_gradients_are_those_of_the_formula(layer, dims, variant):
    module, x = build(layer, dims, **variant), image(dims).requires_grad_()
    inputs = [x, *module.parameters()]
    y, expected = module(x), by_grid_sample(module, x, variant)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(y)
    got, want = (torch.autograd.grad((out * weight).sum(), inputs) for out in (y, expected))
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    assert all(gradient.any() for gradient in got)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dims", [2, 3])
def test_output_has_the_shape_of_a_convolution(dims, variant):
    arguments = {name: per_axis(variant.get(name, 1), dims) for name in ("stride", "dilation")}
    size, padding = (per_axis(variant.get(name, n), dims) for name, n in (("kernel_size", 3), ("pad", 1)))
    expected = PLAIN[dims](8, 8, size, padding=padding, **arguments)(image(dims).float()).shape
    assert build(DCNv3, dims, **variant)(image(dims)).shape == expected


@pytest.mark.parametrize("dims", [2, 3])
def test_a_new_layer_averages_over_its_kernel(dims):
    module, x = DCNv3(8, 5, pad=2, spatial_dims=dims), image(dims).float()
    averaged = POOL[dims](module.input_proj(x.movedim(1, -1)).movedim(-1, 1), 5, 1, 2)
    torch.testing.assert_close(module(x), module.output_proj(averaged.movedim(1, -1)).movedim(-1, 1))
    for projection in (module.input_proj, module.output_proj):
        assert not projection.bias.any()
        assert 0.5 * (6 / 16) ** 0.5 < projection.weight.abs().max() <= (6 / 16) ** 0.5


@pytest.mark.parametrize("dims", [2, 3])
def test_a_new_dcnv4_is_zero_and_learns(dims):
    module, x = DCNv4(8, spatial_dims=dims), image(dims).float()
    assert not module(x).any()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (module(x) - x).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in module.parameters())


@pytest.fixture(scope="module")
def original(shared_reference):
    """The original modules: arguments, state dict, input and output."""
    spec = importlib.util.spec_from_file_location("fill", shared_reference / "fill.py")
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    outputs = np.load(shared_reference / "dcnv3.npz", allow_pickle=False)
    cases = []
    for i, case in enumerate(json.loads((shared_reference / "dcnv3.json").read_text())):
        state = {key: source.fill(key, tuple(shape)) for key, shape in case["keys"].items()}
        state["offset.weight"] = 3 * state["offset.weight"]
        x = source.normal_image((2, case["channels"], *case["size"]), seed=i)
        cases.append(({"channels": case["channels"]} | case["kwargs"], state, x, outputs[f"out{i}"]))
    return cases


@pytest.mark.parametrize("number", range(4))
def test_golden_output(original, number):
    arguments, state, x, expected = original[number]
    module = DCNv3(**arguments)
    module.load_original(state)
    with torch.no_grad():
        y = module(torch.from_numpy(x)).numpy()
    assert np.abs(y - expected).max() < 1e-4 * expected.std()


def test_a_state_dict_of_something_else_is_refused_and_changes_nothing(original):
    arguments, state, *_ = original[0]
    module = DCNv3(**arguments)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    broken = {name: value for name, value in state.items() if name != "dw_conv.1.1.weight"}
    broken |= {"extra": np.zeros(3), "mask.bias": np.zeros(4)}
    with pytest.raises(ValueError, match="expected that of a DCNv3 module of the same arguments") as error:
        module.load_original(broken)
    told = "missing dw_conv.1.1.weight; unexpected extra; mask.bias of shape (4,) instead of (36,)"
    assert str(error.value).endswith(told)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with pytest.raises(ValueError, match=r"missing dw_conv\.0\.weight; .*; and 19 more"):
        module.load_original(nn.TransformerEncoderLayer(16, 2).state_dict())
    with pytest.raises(ValueError, match="expected a layer of 2 spatial dims, got 3"):
        DCNv3(16, spatial_dims=3).load_original(state)


@pytest.mark.parametrize("layer", [DCNv3, DCNv4])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 30}, "channels: expected a multiple of group=4, got 30; nearest: 28 or 32"),
        ({"channels": 3}, "channels: expected a multiple of group=4, got 3; nearest: 4"),
        ({"group": 0}, "group: expected integers of at least 1, got 0"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size: expected an integer or 2 integers, got (3, 3, 3)"),
        ({"dw_kernel_size": 0}, "dw_kernel_size: expected integers of at least 1, got 0"),
        ({"pad": -1}, "pad: expected integers of at least 0, got -1"),
        ({"spatial_dims": 1}, "spatial_dims: expected 2 or 3, got 1"),
        ({"offset_scale": 0}, "offset_scale: expected a positive number, got 0"),
        ({"offset_limit": -1.0}, "offset_limit: expected a positive number of voxels, got -1.0"),
    ],
)
def test_impossible_arguments_are_refused(layer, arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        layer(**{"channels": 8} | arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("shape", [(1, 8, 4), (1, 6, 4, 4), (1, 8, 4, 4, 4), (1, 8, 2, 9)])
@pytest.mark.parametrize("layer", [DCNv3, DCNv4])
def test_other_images_are_refused(layer, shape):
    with pytest.raises(ValueError, match=r"x: expected .*, got \("):
        layer(8, pad=0)(torch.zeros(shape))


@pytest.mark.parametrize(("layer", "dims"), [(DCNv3, 2), pytest.param(DCNv4, 3, marks=pytest.mark.slow)])
def test_export_keeps_the_spatial_size_free(layer, dims):
    module = build(layer, dims, stride=2, center_feature_scale=True).eval()
    free = {0: torch.export.Dim.DYNAMIC} | {2 + axis: torch.export.Dim.DYNAMIC for axis in range(dims)}
    program = torch.export.export(module, (image(dims),), dynamic_shapes=(free,))
    x = torch.randn(3, 8, *(5, 9, 8)[:dims], dtype=torch.float64)
    torch.testing.assert_close(program.module()(x), module(x))


def test_compile_in_one_graph():
    module, x = build(DCNv3, 2), image(2)
    y = torch.compile(module, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(y, module(x))
    ours, expected = (torch.autograd.grad(out.square().sum(), list(module.parameters())) for out in (y, module(x)))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("layer", [DCNv3, DCNv4])
def test_memory_is_channels_last(layer, dims):
    assert build(layer, dims, center_feature_scale=True)(image(dims)).movedim(1, -1).is_contiguous()


def test_bfloat16():
    module, x = build(DCNv3, 2).float(), image(2).float()
    y = module.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), module.float()(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("dims", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_gradients_under_autocast(dims):
    """On CPUs the depthwise gradient of small bfloat16 maps may hold memory that was never written."""
    module, x = build(DCNv3, dims, dw_kernel_size=5).float(), image(dims).float()
    for layer in (module.offset, module.mask):
        nn.init.normal_(layer.weight, std=0.05)
    x = x[(..., *[slice(3)] * dims)]
    expected = torch.autograd.grad(module(x).square().mean(), list(module.parameters()))
    used = [torch.full((n,), float("nan")) for n in (64, 1024, 16384)]
    del used  # what is read without having been written shall be NaN
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    gradients = torch.autograd.grad(y.float().square().mean(), list(module.parameters()))
    for got, want in zip(gradients, expected, strict=True):
        assert (got - want).norm() < 0.1 * want.norm()


def test_offsets_of_half_precision_are_not_rounded_by_the_spread_of_the_kernel():
    module = build(DCNv3, 2, offset_scale=1.5).bfloat16()
    offset = torch.full((1, 3, 3, module.spread.numel()), 2.0**-10, dtype=torch.bfloat16)
    moved = module.in_voxels(offset, (3, 3)).movedim(1, -1)
    assert torch.equal(moved - module.spread.float(), 1.5 * offset.float())
