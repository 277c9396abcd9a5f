"""What must not be read, must not be differentiated, or is empty."""

import pytest
import torch

from dlka_med.ops import deform_conv

from .cases import CASES, Case

NOWHERE = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9, -3e9, 7.0, -7.0]


@pytest.mark.parametrize("value", NOWHERE)
@pytest.mark.parametrize("dims", [2, 3])
def test_points_outside_read_nothing_not_even_nan(dims, value, backend):
    x = torch.full((1, 2, *(5, 4, 6)[:dims]), float("nan")).requires_grad_()
    offset = torch.full((1, dims, *x.shape[2:]), value).requires_grad_()
    weight = torch.ones(3, 2, *[1] * dims, requires_grad=True)
    y = deform_conv(x, offset, weight, backend=backend)
    assert torch.equal(y, torch.zeros_like(y))
    for gradient in torch.autograd.grad(y.sum(), (x, offset, weight)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", ["2d dense", "2d depthwise offset groups", "3d dense", "3d depthwise"])
def test_one_axis_outside_is_as_if_masked(name, backend):
    case = CASES[name]
    tensors = case.tensors(spread=0.7)
    points = case.geometry.points * case.offset_groups
    shape = (2, points, *case.geometry.output_size(case.size))
    lost = torch.rand(shape, generator=torch.Generator().manual_seed(2), device="cpu") < 0.3
    assert lost.sum() >= 2 * len(NOWHERE)
    lost = lost.to(tensors["x"].device)
    far = tensors["offset"].unflatten(1, (points, -1)).clone()
    far[:, :, -1][lost] = 20 * torch.tensor(NOWHERE, dtype=far.dtype).repeat(lost.sum())[: lost.sum()]
    tensors["mask"] = torch.ones(shape, dtype=torch.float64)
    offsets = [far.flatten(1, 2).requires_grad_(), tensors["offset"].clone().requires_grad_()]
    masks = [tensors["mask"], tensors["mask"] * ~lost]
    results = []
    for offset, mask in zip(offsets, masks, strict=True):
        x, weight = (tensors[key].clone().requires_grad_() for key in ("x", "weight"))
        y = case.run(tensors | {"x": x, "offset": offset, "weight": weight, "mask": mask}, backend)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, offset, weight))))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_half_a_voxel_outside_fades_to_zero(dims, backend):
    x = torch.ones(1, 1, *[2] * dims, dtype=torch.float64)
    offset = torch.full((1, dims, *x.shape[2:]), -0.75, dtype=torch.float64)
    y = deform_conv(x, offset, None, kernel_size=1, backend=backend)
    assert y.flatten()[0] == pytest.approx(0.25**dims)
    assert y.flatten()[-1] == pytest.approx(1)


@pytest.mark.parametrize("name", ["2d groups that cross", "2d depthwise offset groups", "3d dense", "3d no weight"])
@pytest.mark.parametrize("spread", [1.5, 100.0])
def test_the_surroundings_of_a_view_are_not_read(name, spread, backend):
    case = CASES[name]
    tensors = case.tensors(spread=spread)
    buffers, views = {}, {}
    for key, tensor in tensors.items():
        views[key] = None
        if tensor is not None:
            buffers[key] = torch.full([size + 4 for size in tensor.shape], float("nan"), dtype=tensor.dtype)
            inner = tuple(slice(2, 2 + size) for size in tensor.shape)
            buffers[key][inner] = tensor
            buffers[key].requires_grad_()
            views[key] = buffers[key][inner]
    y = case.run(views, backend)
    torch.testing.assert_close(y, case.solve(tensors), rtol=0, atol=1e-12)
    for gradient in torch.autograd.grad(y.sum(), list(buffers.values())):
        assert torch.isfinite(gradient).all()


THIN = {
    "2d dense": Case((7, 1), (2, 3), mask=True),
    "2d depthwise": Case((1, 6), (4, 4), groups=4, mask=True),
    "3d dense": Case((5, 1, 1), (2, 3), mask=True),
    "3d no weight": Case((1, 4, 1), (3, 0), mask=True),
}


def gradients(y, tensors):
    """By name, of the tensors that exist."""
    present = {name: t for name, t in tensors.items() if t is not None}
    return dict(zip(present, torch.autograd.grad(y.sin().sum(), list(present.values())), strict=True))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", THIN.values(), ids=THIN)
def test_strides_of_axes_of_size_one_mean_nothing(case, batch, backend):
    """A transposed tensor may be contiguous and yet have any stride along an axis of one voxel."""
    tensors = {name: None if t is None else t.requires_grad_() for name, t in case.tensors(batch=batch).items()}
    buffers, views = {}, dict(tensors)
    for key in ("offset", "mask"):
        turned = tensors[key].detach().movedim(2, -1).contiguous()
        buffers[key] = torch.full((turned.numel() + 2000,), float("nan"), dtype=turned.dtype)
        buffers[key][1000:-1000] = turned.flatten()
        buffers[key].requires_grad_()
        views[key] = buffers[key][1000:-1000].view(turned.shape).movedim(-1, 2)
    y = case.run(views, backend)
    torch.testing.assert_close(y, case.solve(tensors), rtol=0, atol=1e-12)
    expected = gradients(case.run(tensors, "reference"), tensors)
    ours = gradients(y, tensors | buffers)
    for key in buffers:
        inner = ours[key][1000:-1000].view_as(expected[key].movedim(2, -1))
        ours[key] = inner.movedim(-1, 2)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", ["2d dense strided", "3d depthwise", "3d no weight"])
def test_an_empty_batch(name, solve_or_skip):
    case = CASES[name]
    tensors = {key: None if t is None else t.requires_grad_() for key, t in case.tensors(batch=0).items()}
    y = solve_or_skip(case, tensors)
    outputs = case.channels[1] or case.channels[0]
    assert y.shape == (0, outputs, *case.geometry.output_size(case.size))
    present = [t for t in tensors.values() if t is not None]
    for tensor, gradient in zip(present, torch.autograd.grad(y.sum(), present), strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))


def test_an_axis_of_size_zero_is_all_padding(backend):
    case = Case((0, 4), (2, 3), kernel=(2, 3), padding=(1, 1), bias=True)
    tensors = case.tensors()
    y = case.run(tensors, backend)
    assert torch.equal(y, tensors["bias"].reshape(1, 3, 1, 1).expand(2, 3, 1, 4))


@pytest.mark.parametrize("name", ["2d dense", "3d depthwise"])
def test_memory_format_follows_x(name, solve_or_skip):
    case = CASES[name]
    tensors = case.tensors()
    form = torch.channels_last if len(case.size) == 2 else torch.channels_last_3d
    y = solve_or_skip(case, tensors)
    z = solve_or_skip(case, tensors | {"x": tensors["x"].contiguous(memory_format=form)})
    assert y.is_contiguous()
    assert z.is_contiguous(memory_format=form)
    assert torch.equal(y, z)
