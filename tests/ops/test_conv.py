"""Plain convolutions against torch's own in double precision."""

import pytest
import torch
from monai.data import MetaTensor
from torch.nn import functional as F

from dlka_med.ops import conv as module
from dlka_med.ops.conv import conv
from dlka_med.ops.layout import channels_last

PLAIN = {2: F.conv2d, 3: F.conv3d}
DEPTHWISE = [((7, 4, 9), 3, 1), ((7, 4, 9), 5, 2), ((5, 7, 2), 7, 3), ((6, 9, 3), 3, 3), ((1, 1, 1), 5, 3)]
DEPTHWISE += [((7, 9), 7, 3), ((9, 8), 5, 1), ((1, 2), 3, 2)]
# Sizes, kernel and padding of single images: odd and even, kept, shrunk and grown, not few voxels for the kernel.
SINGLE = [
    ((4, 8, 4), 3, 1),
    ((5, 7, 5), 3, 1),
    ((7, 9, 5), 3, 1),
    ((9, 8, 7), 3, 0),
    ((10, 6, 5), 5, 3),
    ((5, 64, 1), 3, 1),
]
SINGLE += [((1, 20, 15), 3, 1), ((19, 17), 3, 1), ((16, 20), 1, 0), ((18, 21), 5, 0), ((256, 1), 3, 1)]


def settings(dims, stride=1, padding=0, dilation=1, groups=1):
    return {"stride": (stride,) * dims, "padding": (padding,) * dims, "dilation": (dilation,) * dims, "groups": groups}


def compare(x, weight, bias, arguments, rtol=1e-5, atol=1e-4):
    """Output and gradients of everything; the result, channels-last."""
    inputs = [x.requires_grad_(), weight.requires_grad_()] + ([] if bias is None else [bias.requires_grad_()])
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = PLAIN[x.ndim - 2](*exact, **arguments)
    y = conv(x, weight, bias, **arguments)
    grad = torch.randn_like(y)
    torch.testing.assert_close(y.double(), expected, rtol=rtol, atol=atol)
    wanted = torch.autograd.grad(expected, exact, grad.double())
    for got, want in zip(torch.autograd.grad(y, inputs, grad), wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=rtol, atol=atol)
    return y


@pytest.fixture
def taken(monkeypatch):
    """Names of the ways of our own that were taken; the test is skipped where the processor has none."""
    if not module._onednn_applies(torch.randn(1, 2, 4, 4), torch.randn(2, 2, 3, 3), 1):
        pytest.skip("NOT TESTED: oneDNN is missing, or the processor has no AVX2")
    names = []

    def spy(name):
        way = getattr(module, name)
        return lambda x, *rest: names.append(f"{name} {x.ndim - 2}d") or way(x, *rest)

    for name in ("convolve", "_subsampled", "_pointwise"):
        monkeypatch.setattr(module, name, spy(name))
    return names


@pytest.mark.parametrize(("size", "kernel", "dilation"), DEPTHWISE)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [channels_last, torch.Tensor.contiguous], ids=["channels_last", "contiguous"])
def test_depthwise(size, kernel, dilation, bias, layout, taken):
    dims = len(size)
    x, weight = layout(torch.randn(2, 5, *size)), torch.randn(5, 1, *[kernel] * dims)
    arguments = settings(dims, padding=dilation * (kernel // 2), dilation=dilation, groups=5)
    compare(x, weight, torch.randn(5) if bias else None, arguments)
    assert taken == [f"_subsampled {dims}d"] * (dilation > 1) + ["convolve 3d"] * (dims == 3)


@pytest.mark.parametrize(("size", "kernel", "padding"), SINGLE)
@pytest.mark.parametrize("channels", [(3, 17), (1, 4), (20, 1)])
@pytest.mark.parametrize("layout", [channels_last, torch.Tensor.contiguous], ids=["channels_last", "contiguous"])
def test_single_image(size, kernel, padding, channels, layout, taken):
    dims, (inputs, outputs) = len(size), channels
    x, weight = layout(torch.randn(1, inputs, *size)), torch.randn(outputs, inputs, *[kernel] * dims)
    if min(size) + 2 * padding < kernel:
        pytest.skip("the kernel is larger than the image")
    summands = max(channels) * kernel**dims
    arguments = settings(dims, padding=padding)
    y = compare(x, weight, torch.randn(outputs), arguments, atol=max(1e-4, 1e-7 * summands))
    assert taken == [f"convolve {dims}d"]
    assert channels_last(y).data_ptr() == y.data_ptr()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(5, 7, 4), (1, 1, 1)])
@pytest.mark.parametrize("channels", [(3, 17), (1, 4), (20, 1)])
@pytest.mark.parametrize("layout", [channels_last, torch.Tensor.contiguous], ids=["channels_last", "contiguous"])
def test_single_voxels_of_volumes(batch, size, channels, layout, taken):
    inputs, outputs = channels
    x, weight = layout(torch.randn(batch, inputs, *size)), torch.randn(outputs, inputs, 1, 1, 1)
    compare(x, weight, torch.randn(outputs), settings(3))
    assert taken == ["_pointwise 3d"]
    y = conv(x, weight, **settings(3))
    (grad,) = torch.autograd.grad(y, x, torch.randn_like(y).contiguous())
    for given in (y, grad):
        assert channels_last(given).data_ptr() == given.data_ptr()


@pytest.mark.parametrize(
    ("size", "dilation", "multiplied"),
    [((5, 7, 5), 3, (3, 5, 3)), ((5, 7, 5), 1, (7, 7, 7)), ((2, 9, 1), 1, (3, 7, 1)), ((3, 3, 3), 3, (1, 1, 1))],
)
def test_what_of_a_kernel_cannot_meet_two_voxels_is_not_multiplied(size, dilation, multiplied, monkeypatch):
    if not module.ONEDNN:
        pytest.skip("NOT TESTED: oneDNN is missing, or the processor has no AVX2")
    seen, convolve = [], module.convolve
    monkeypatch.setattr(
        module, "convolve", lambda x, weight, *rest: seen.append(weight.shape[2:]) or convolve(x, weight, *rest)
    )
    arguments = settings(3, padding=3 * dilation, dilation=dilation, groups=5)
    compare(torch.randn(2, 5, *size), torch.randn(5, 1, 7, 7, 7), None, arguments)
    assert seen == [multiplied]


@pytest.mark.parametrize(
    ("batch", "size", "kernel", "arguments"),
    [
        (2, (8, 9, 7), 3, {"padding": 1}),
        (1, (8, 9, 7), 3, {"padding": 1, "stride": 2}),
        (1, (8, 9, 7), 3, {"padding": 2, "dilation": 2}),
        (1, (8, 9, 7), 3, {"padding": 3}),
        (1, (8, 9, 7), 3, {"padding": 1, "groups": 2}),
        (1, (4, 3, 5), 3, {"padding": 1}),
        (1, (5, 5, 5), 3, {"padding": 1}),
        (1, (5, 7, 5), 5, {"padding": 2}),
        (1, (14, 15), 3, {"padding": 1}),
        (1, (16, 17), 4, {"stride": 4}),
        (1, (16, 17), 3, {"padding": 1, "groups": 4, "stride": 2}),
        (1, (16, 17), 3, {"padding": 0, "groups": 4}),
        (1, (8, 9, 7), 2, {"padding": 1, "dilation": 2, "groups": 4}),
        (2, (3, 4), 4, {"padding": 3, "dilation": 2, "groups": 4}),
    ],
)
def test_what_torch_does_itself(batch, size, kernel, arguments, taken):
    arguments = settings(len(size), **arguments)
    x, weight = torch.randn(batch, 4, *size), torch.randn(4, 4 // arguments["groups"], *[kernel] * len(size))
    compare(x, weight, torch.randn(4), arguments)
    assert taken == []


@pytest.mark.parametrize("groups", [1, 2])
def test_double_precision_and_second_derivatives(groups):
    x = torch.randn(1, 2, 7, 8, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2 // groups, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    arguments = settings(3, padding=1, groups=groups)
    assert torch.autograd.gradcheck(lambda x, w: conv(x, w, **arguments), (x, weight), fast_mode=True)
    seconds = []
    for dtype in (torch.float32, torch.float64):
        a, b = (t.detach().to(dtype).requires_grad_() for t in (x, weight))
        first = torch.autograd.grad(conv(a, b, **arguments).square().sum(), (a, b), create_graph=True)
        seconds.append(torch.autograd.grad(sum(g.square().sum() for g in first), (a, b)))
    for got, want in zip(*seconds, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-3 * want.abs().max())


@pytest.mark.parametrize("size", [(3, 4, 3), (9, 8)])
def test_depthwise_under_autocast_computes_in_single_precision(size):
    dims = len(size)
    weight, arguments = torch.randn(8, 1, *[5] * dims, requires_grad=True), settings(dims, padding=2, groups=8)
    x = channels_last(torch.randn(2, 8, *size).bfloat16())
    exact = torch.autograd.grad(conv(x.float(), weight, **arguments).square().mean(), weight)[0]
    used = [torch.full((n,), float("nan")) for n in (64, 1024, 16384)]
    del used  # what is read without having been written shall be NaN
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x, weight, **arguments)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), conv(x.float(), weight, **arguments), rtol=1e-2, atol=5e-2)
    got = torch.autograd.grad(y.float().square().mean(), weight)[0]
    torch.testing.assert_close(got, exact, rtol=2e-2, atol=2e-2 * exact.abs().max())


def test_dense_under_autocast_is_that_of_torch():
    x, weight = torch.randn(1, 3, 20, 20), torch.randn(4, 3, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(x, weight, **settings(2)).dtype == torch.bfloat16


@pytest.mark.parametrize(("groups", "size"), [(4, (7, 6, 9)), (1, (9, 8, 7)), (1, (19, 17))])
def test_backward_under_autocast_computes_in_single_precision(groups, size, taken):
    dims = len(size)
    x, weight = (torch.randn(shape, requires_grad=True) for shape in ((1, 4, *size), (4, 4 // groups, *[3] * dims)))
    y = conv(x, weight, **settings(dims, padding=1, groups=groups))
    assert taken == [f"convolve {dims}d"]
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, weight), grad, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = torch.autograd.grad(y, (x, weight), grad)
    assert all(map(torch.equal, ours, expected))


@pytest.mark.parametrize(("groups", "size"), [(4, (7, 6, 9)), (1, (9, 8, 7)), (1, (19, 17))])
def test_compiled_the_same_ways_are_taken(groups, size, taken):
    dims = len(size)
    tensors = [torch.randn(s) for s in ((1, 4, *size), (4, 4 // groups, *[3] * dims), (4,))]
    x, weight, bias = (t.requires_grad_() for t in tensors)

    def run(x, weight, bias):
        return conv(x, weight, bias, **settings(dims, padding=1, groups=groups))

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    y, expected = compiled(x, weight, bias), run(x, weight, bias)
    assert torch.equal(y, expected)
    assert y.stride() == expected.stride()
    assert "convolve" in str(taken)
    with torch.profiler.profile() as profile:
        ours = torch.autograd.grad(compiled(x, weight, bias), (x, weight, bias), torch.ones_like(y))
    assert {"dlka_med::conv_onednn", "dlka_med::conv_onednn_backward"} <= {event.name for event in profile.events()}
    assert all(map(torch.equal, ours, torch.autograd.grad(expected, (x, weight, bias), torch.ones_like(y))))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize(("groups", "channels"), [(3, 3), (1, 3), (1, 1)])
@pytest.mark.parametrize("layout", [channels_last, torch.Tensor.contiguous], ids=["channels_last", "contiguous"])
def test_registration(groups, channels, layout, taken):
    x, weight, bias = torch.randn(1, channels, 4, 3, 5), torch.randn(channels, channels // groups, 3, 3, 3), None
    x, weight = (layout(t).requires_grad_() for t in (x, weight))
    for bias in (None, torch.randn(channels, requires_grad=True)):
        torch.library.opcheck(
            torch.ops.dlka_med.conv_onednn, (x, weight, bias, [1, 1, 1], groups), atol=1e-5, rtol=1e-5
        )


def test_transforms_and_graphs_see_the_convolution_of_torch():
    x, weight = torch.randn(3, 1, 2, 20, 20), torch.randn(4, 2, 3, 3)
    arguments = settings(2, padding=1)
    expected = torch.stack([conv(one, weight, **arguments) for one in x])
    torch.testing.assert_close(torch.func.vmap(lambda one: conv(one, weight, **arguments))(x), expected)

    class Module(torch.nn.Module):
        def forward(self, x):
            return conv(x, weight, **arguments)

    exported = torch.export.export(Module(), (x[0],))
    assert "aten.conv2d.default" in exported.graph_module.code or "convolution" in exported.graph_module.code
    torch.testing.assert_close(exported.module()(x[0]), expected[0])


@pytest.mark.parametrize(("groups", "size"), [(4, (7, 6, 9)), (1, (9, 8, 7)), (1, (19, 17))])
def test_results_of_subclasses_may_be_changed_in_place(groups, size, taken):
    dims = len(size)
    x, weight = torch.randn(1, 4, *size), torch.randn(4, 4 // groups, *[3] * dims, requires_grad=True)
    results = []
    for image in (MetaTensor(x), x):
        y = conv(image, weight, **settings(dims, padding=1, groups=groups))
        results.append((y, *torch.autograd.grad(y.clamp_(min=0).sum(), weight)))
    assert isinstance(results[0][0], MetaTensor)
    assert taken == [f"convolve {dims}d"] * 2
    torch.testing.assert_close(*([t.as_subclass(torch.Tensor) for t in each] for each in results))


@pytest.mark.parametrize(("x", "weight"), [((1, 3, 20, 20), (4, 2, 3, 3)), ((1, 2, 2, 200), (4, 2, 5, 5))])
def test_what_does_not_fit_is_refused_by_torch(x, weight):
    with pytest.raises(RuntimeError, match=r"to have 2 channels|Kernel size can't be greater than actual input size"):
        conv(torch.randn(x), torch.randn(weight), **settings(2))


def test_an_empty_batch():
    weight = torch.randn(4, 2, 3, 3, 3, requires_grad=True)
    y = conv(torch.randn(0, 2, 8, 8, 8), weight, **settings(3, padding=1))
    assert y.shape == (0, 4, 8, 8, 8)
    assert torch.autograd.grad(y.sum(), weight)[0].abs().max() == 0
