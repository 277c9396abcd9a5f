"""Values and gradients of every backend, against nested loops, finite differences, torch and torchvision."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.autograd import gradcheck

from dlka_med.ops import deform_conv

from .cases import CASES, Case

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
WITH_WEIGHT = {name: case for name, case in CASES.items() if case.channels[1]}
IN_2D = {name: case for name, case in WITH_WEIGHT.items() if len(case.size) == 2}


def trained(tensors):
    """The tensors that exist, each asking for its gradient."""
    return {name: None if t is None else t.clone().requires_grad_() for name, t in tensors.items()}


def direction(y):
    """Fixed weights of the entries of `y`."""
    return torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)


def gradients(y, tensors):
    """Gradients of `(direction(y) * y).sum()`, by name."""
    present = {name: t for name, t in tensors.items() if t is not None}
    return dict(zip(present, torch.autograd.grad(y, list(present.values()), direction(y)), strict=True))


def test_values(case, solve_or_skip):
    tensors = case.tensors()
    torch.testing.assert_close(solve_or_skip(case, tensors), case.solve(tensors), rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_nested_loops(case, solve_or_skip):
    tensors = trained(case.tensors())
    y = solve_or_skip(case, tensors)
    draw, step = torch.Generator().manual_seed(1), 1e-6
    present = {name: t for name, t in tensors.items() if t is not None}
    nudges = {name: torch.randn(t.shape, generator=draw, device="cpu").to(t) for name, t in present.items()}
    values = [
        (direction(y) * case.solve(tensors | {name: tensors[name] + side * nudges[name] for name in nudges})).sum()
        for side in (step, -step)
    ]
    slope = sum((gradient * nudges[name]).sum() for name, gradient in gradients(y, tensors).items())
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "case",
    [
        Case((3, 4), (2, 2), (2, 1), (2, 1), (0, 1), groups=2, mask=True, bias=True),
        Case((2, 3, 2), (2, 2), (2, 1, 2), (1, 2, 1), 0, offset_groups=2, mask=True, bias=True),
        Case((2, 3, 2), (2, 0), (1, 2, 1), padding=0),
    ],
    ids=["2d grouped", "3d offset groups", "3d no weight"],
)
def test_gradients_entry_by_entry(case, solve_or_skip):
    tensors = trained(case.tensors(batch=1))
    present = {key: t for key, t in tensors.items() if t is not None}

    def of(*values):
        return solve_or_skip(case, tensors | dict(zip(present, values, strict=True)))

    assert gradcheck(of, tuple(present.values()), nondet_tol=1e-10)


@pytest.mark.parametrize("case", IN_2D.values(), ids=IN_2D)
def test_torchvision_agrees(case, solve_or_skip):
    ours, theirs = trained(case.tensors()), trained(case.tensors())
    y = solve_or_skip(case, ours)
    weight, settings = theirs["weight"], (case.stride, case.padding, case.dilation)
    z = torchvision.ops.deform_conv2d(theirs["x"], theirs["offset"], weight, theirs["bias"], *settings, theirs["mask"])
    torch.testing.assert_close(y, z, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients(y, ours), gradients(z, theirs), rtol=0, atol=1e-12)


def test_float32_agrees_with_float64(case, solve_or_skip):
    tensors = case.tensors(torch.float32)
    single, double = (
        trained(tensors),
        trained({k: None if t is None else t.double() for k, t in tensors.items()}),
    )
    y, z = solve_or_skip(case, single), case.run(double, "reference")
    assert y.dtype == torch.float32
    tolerance = 1e-6 * (case.geometry.points * case.channels[0]) ** 0.5
    torch.testing.assert_close(y.double(), z, rtol=tolerance, atol=tolerance * z.abs().max().item())
    single_gradients = gradients(y, single)
    for name, expected in gradients(z, double).items():
        got = single_gradients[name].double()
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item(), msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["2d groups that cross", "3d dense", "3d depthwise", "3d no weight"])
def test_half_is_rounded_once(name, dtype, solve_or_skip):
    case = CASES[name]
    tensors = case.tensors(dtype)
    y = solve_or_skip(case, tensors)
    assert y.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), case.solve(tensors), rtol=step, atol=1e-5)


def test_half_coordinates_and_sums_are_float32(backend):
    x = (torch.arange(400) % 2).to(torch.bfloat16).expand(1, 300, -1)
    offset = torch.full((1, 1, 400), 0.5, dtype=torch.bfloat16)
    y = deform_conv(x, offset, torch.ones(1, 300, 1, dtype=torch.bfloat16), backend=backend)
    assert torch.equal(y[0, 0, :-1], torch.full((399,), 150.0, dtype=torch.bfloat16))


@pytest.mark.parametrize("case", WITH_WEIGHT.values(), ids=WITH_WEIGHT)
def test_zero_offsets_make_a_plain_convolution(case, solve_or_skip):
    tensors = case.tensors() | {"mask": None}
    tensors["offset"] = torch.zeros_like(tensors["offset"])
    convolve = CONVOLUTIONS[len(case.size)]
    settings = (case.stride, case.padding, case.dilation, case.groups)
    expected = convolve(tensors["x"], tensors["weight"], tensors["bias"], *settings)
    torch.testing.assert_close(solve_or_skip(case, tensors), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(6, 7), (4, 6, 5)])
def test_integer_offsets_shift_along_the_tensors_own_axes(size, backend):
    dims = len(size)
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    for axis in range(dims):
        offset = torch.zeros(1, dims, *size, dtype=torch.float64)
        offset[:, axis] = axis + 1
        y = deform_conv(x, offset, None, kernel_size=1, backend=backend)
        shifted = torch.zeros_like(x)
        shifted.narrow(2 + axis, 0, size[axis] - axis - 1).copy_(x.narrow(2 + axis, axis + 1, size[axis] - axis - 1))
        assert torch.equal(y, shifted)


def test_offsets_run_kernel_point_by_kernel_point(backend):
    x = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    offset = torch.zeros(1, 3 * 2 * 2, 9, 9, dtype=torch.float64)
    offset[:, 2 * 3 + 1] = -1
    weight = torch.zeros(1, 1, 3, 2, dtype=torch.float64)
    weight[0, 0, 1, 1] = 1
    y = deform_conv(x, offset[..., :8], weight, padding=(1, 0), backend=backend)
    assert torch.equal(y, x[..., :8])


def test_autocast_changes_nothing(backend):
    case = CASES["3d one point"]
    tensors = case.tensors(torch.float32)
    expected = case.run(tensors, backend)
    with torch.autocast(tensors["x"].device.type, torch.bfloat16):
        y = case.run(tensors, backend)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)


def test_a_sum_over_many_rows_stays_accurate(solve_or_skip):
    case = Case((9, 11, 8), (24, 8))
    tensors = case.tensors(torch.float32)
    y = solve_or_skip(case, tensors)
    z = case.run({k: None if t is None else t.double() for k, t in tensors.items()}, "reference")
    torch.testing.assert_close(y.double(), z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_meta_device_gives_shapes(groups):
    shapes = (2, 4, 5, 6), (2, 18, 5, 6), (4, 4 // groups, 3, 3)
    tensors = [torch.zeros(shape, device="meta", requires_grad=True) for shape in shapes]
    y = deform_conv(*tensors, padding=1, groups=groups)
    y.sum().backward()
    assert (y.device.type, y.shape) == ("meta", (2, 4, 5, 6))
    assert all(t.grad.shape == t.shape for t in tensors)
