"""What is particular to the CUDA backend: tiles, dtypes, places in memory, tracing. See conftest.py for its device."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from dlka_med.ops.backends import reference, triton_gpu
from dlka_med.ops.geometry import Geometry

from .cases import CASES, Case

pytestmark = pytest.mark.usefixtures("triton_device")
GUARD = 512
WRITTEN = {"y", "grad_offset", "grad_mask", "sums"}

TILES = {
    "two blocks of outputs": Case((3, 3), (5, 70), kernel=(1, 2), padding=0, bias=True),
    "two blocks of channels": Case((2, 3), (70, 70), kernel=1, padding=0, groups=70, mask=True, bias=True),
    "many positions": Case((9, 15), (3, 2), kernel=1, padding=0, mask=True),
    "groups that are not merged": Case((2, 3), (66, 4), kernel=(1, 2), padding=0, groups=2, offset_groups=3, mask=True),
    "groups merged by two": Case((3, 3), (16, 32), kernel=1, padding=0, groups=4),
}
FEW = {
    "2d groups that cross": Case((3, 4), (6, 9), kernel=(2, 1), groups=3, offset_groups=2, mask=True),
    "2d depthwise offset groups": CASES["2d depthwise offset groups"],
    "3d no weight": Case((3, 2, 2), (2, 0), kernel=(1, 2, 1), stride=(1, 2, 1), bias=True),
}


def run(case, tensors, backend=triton_gpu):
    return backend.run(*(tensors[name] for name in ("x", "offset", "weight", "bias", "mask")), case.geometry)


def results(case, tensors, backend=triton_gpu, wanted=("x", "offset", "weight", "bias", "mask")):
    """The output, and the gradients of the wanted tensors by name."""
    tensors = {name: None if t is None else t.detach().requires_grad_(name in wanted) for name, t in tensors.items()}
    y = run(case, tensors, backend)
    present = {name: t for name, t in tensors.items() if t is not None and name in wanted}
    slopes = torch.autograd.grad(y, list(present.values()), torch.arange(y.numel()).reshape(y.shape).sin().to(y.dtype))
    return {"y": y.detach()} | dict(zip(present, slopes, strict=True))


def double(tensors):
    return {name: None if t is None else t.double() for name, t in tensors.items()}


def assert_close(ours, expected, tolerance):
    """Within `tolerance` of the largest entry; shapes agree, dtypes need not."""
    assert ours.keys() == expected.keys()
    for name, other in expected.items():
        bound = tolerance * max(other.abs().max().item(), 1e-3)
        torch.testing.assert_close(
            ours[name].double(), other.double(), rtol=0, atol=bound, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("case", TILES.values(), ids=TILES)
def test_problems_larger_than_a_tile(case):
    tensors = case.tensors()
    assert_close(results(case, tensors), results(case, tensors, reference), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["2d grouped", "2d no weight", "3d one point"])
def test_gradients_of_half_precision_are_rounded_once(name, dtype):
    case = CASES[name]
    tensors = case.tensors(dtype)
    ours, expected = results(case, tensors), results(case, double(tensors), reference)
    assert all(value.dtype == dtype for value in ours.values())
    assert_close(ours, expected, 2 * torch.finfo(dtype).eps)


def test_each_tensor_may_have_its_own_dtype():
    case = FEW["2d groups that cross"]
    tensors = case.tensors()
    dtypes = {"x": torch.bfloat16, "offset": torch.float32, "weight": torch.float16, "mask": torch.float64}
    tensors = {name: None if t is None else t.to(dtypes[name]) for name, t in tensors.items()}
    ours = results(case, tensors)
    assert {name: t.dtype for name, t in ours.items()} == dtypes | {"y": torch.bfloat16}
    assert_close(ours, results(case, double(tensors), reference), 2 * torch.finfo(torch.bfloat16).eps)


@pytest.fixture
def guarded(monkeypatch):
    """Every launch works amid NaN: around its tensors, where nothing may be changed, and in those that it fills."""
    launch = triton_gpu.Problem.launch

    def surrounded(self, kernel, tile, programs, *tensors, **settings):
        views, buffers = [], []
        for name, tensor in zip(kernel.arg_names, tensors, strict=False):
            views.append(None)
            if tensor is not None:
                span = triton_gpu.extent(tensor)
                buffers.append(torch.full((span + 2 * GUARD,), torch.nan, dtype=tensor.dtype, device=tensor.device))
                views[-1] = buffers[-1].as_strided(tensor.shape, tensor.stride(), GUARD)
                if name not in WRITTEN:
                    views[-1].copy_(tensor)
        launch(self, kernel, tile, programs, *views, **settings)
        for buffer in buffers:
            assert torch.cat([buffer[:GUARD], buffer[-GUARD:]]).isnan().all()
        for view, tensor in zip(views, tensors, strict=True):
            if tensor is not None:
                tensor.copy_(view)

    monkeypatch.setattr(triton_gpu.Problem, "launch", surrounded)


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("name", ["1d", *FEW, pytest.param("3d depthwise", marks=pytest.mark.slow)])
def test_nothing_else_is_read_or_written(name):
    case = (CASES | FEW)[name]
    tensors = case.tensors(torch.float32, spread=3)
    lost = tensors["offset"].flatten()
    lost[::5] = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -3e9, 2.2e9]).repeat(len(lost))[: len(lost[::5])]
    ours = results(case, tensors)
    assert all(value.isfinite().all() for value in ours.values())
    assert_close(ours, results(case, double(tensors), reference), 1e-5)


@pytest.mark.parametrize("case", FEW.values(), ids=FEW)
def test_places_of_64_bits(case, monkeypatch):
    tensors = case.tensors()
    expected = results(case, tensors)
    monkeypatch.setattr(triton_gpu, "WIDE_FROM", 0)
    ours = results(case, tensors)
    assert_close(ours, expected, 1e-14)


@pytest.mark.parametrize("wanted", [("x",), ("offset",), ("weight",), ("mask",), ("bias",), ("x", "mask")])
def test_only_the_gradients_asked_for(wanted):
    case = Case((3, 4), (4, 4), kernel=(1, 2), padding=0, groups=2, mask=True, bias=True)
    tensors = case.tensors()
    expected = results(case, tensors, reference)
    assert_close(results(case, tensors, wanted=wanted), {name: expected[name] for name in ("y", *wanted)}, 1e-12)


def test_sums_over_spans_of_positions(monkeypatch):
    case = TILES["many positions"]
    tensors = case.tensors()
    monkeypatch.setattr(triton_gpu, "SUMS_BYTES", 0)
    one = results(case, tensors, wanted=("weight",))
    monkeypatch.undo()
    assert_close(results(case, tensors, wanted=("weight",)), one, 1e-13)


LAYOUTS = {
    "channels-last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "sliced": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
    "expanded": lambda t: t[..., :1, :1].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["2d no weight", "3d one point"])
def test_strides_are_followed_and_foretold(name, layout):
    case = CASES[name]
    tensors = {key: t if t is None else layout(t) for key, t in case.tensors().items()}
    assert_close(results(case, tensors), results(case, tensors, reference), 1e-12)
    geometry = case.geometry
    axes = [list(axis) for axis in (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)]
    x, weight = tensors["x"].movedim(1, -1).contiguous(), tensors["weight"]
    wanted = [True, True, weight is not None, tensors["mask"] is not None]
    inputs = [x, tensors["offset"], weight, tensors["mask"], wanted, *axes, case.groups, case.offset_groups]
    grad_y = x.new_ones(2, *tensors["offset"].shape[2:], case.channels[1] or case.channels[0])
    real = triton_gpu.backward(grad_y, *inputs)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for t in (grad_y, *inputs)]
        fake = triton_gpu.backward(*fakes)
    assert [(t.shape, t.stride()) for t in real] == [(t.shape, t.stride()) for t in fake]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("form", [torch.contiguous_format, pytest.param(torch.channels_last, marks=pytest.mark.slow)])
def test_registration(form):
    x, offset = torch.randn(1, 3, 4, 4, dtype=torch.float64), torch.randn(1, 2 * 2, 3, 3, dtype=torch.float64)
    weight, mask = torch.randn(2, 4, 1, 2, dtype=torch.float64), torch.rand(1, 2, 3, 3, dtype=torch.float64)
    x, offset, weight, mask = (t.contiguous(memory_format=form).requires_grad_() for t in (x, offset, weight, mask))
    tensors = (x, offset, weight, None, mask)
    torch.library.opcheck(torch.ops.dlka_med.deform_conv_cuda, (*tensors, [1, 2], [1, 1], [0, 0], [1, 1], 1, 1))


def test_compiled_whole():
    case = Case((3, 4), (4, 3), kernel=(1, 2), padding=0)
    tensors = {name: t if t is None else t.requires_grad_() for name, t in case.tensors().items()}

    def loss(x, offset, weight):
        tensors = {"x": x, "offset": offset, "weight": weight, "bias": None, "mask": None}
        return case.run(tensors, "triton_gpu").square().sum()

    present = [tensors["x"], tensors["offset"], tensors["weight"]]
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    ours, expected = (torch.autograd.grad(function(*present), present) for function in (compiled, loss))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_it_leaves_to_the_reference(monkeypatch):
    case = Case((5, 6), (4, 3))
    tensors = case.tensors()
    x, arguments = tensors["x"], (tensors["offset"], tensors["weight"], None, None)

    def reason(x, geometry=case.geometry):
        return triton_gpu.why_not(x, *arguments, geometry)

    assert reason(x) is None
    reasons = []
    torch.func.grad(lambda x: reasons.append(reason(x)) or x.sum())(x)
    with forward_ad.dual_level():
        reasons.append(reason(forward_ad.make_dual(x, x)))
    reasons += [reason(x.to("meta")), reason(x, Geometry.of(4, 3)), reason(x.to(torch.float8_e5m2))]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    reasons.append(reason(x))
    monkeypatch.setattr(triton_gpu, "INSTALLED", False)
    reasons.append(reason(x))
    expected = ("torch.func", "forward-mode", "got meta", "got 4", "float8", "exported", "not installed")
    for said, part in zip(reasons, expected, strict=True):
        assert part in said
    monkeypatch.undo()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert reason(x.cpu()) == "expected tensors on a cuda device, got cpu"


def test_no_second_derivative():
    case = CASES["3d one point"]
    tensors = case.tensors()
    x = tensors["x"].requires_grad_()
    (slope,) = torch.autograd.grad(run(case, tensors).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        slope.sum().backward()


@pytest.fixture
def deterministic():
    """`torch.use_deterministic_algorithms`, put back afterwards."""
    yield torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms(False)


def test_deterministic_algorithms(deterministic):
    case = CASES["3d one point"]
    tensors = case.tensors()
    expected = results(case, tensors)
    deterministic(True)
    results(case, tensors, wanted=("offset", "weight"))
    with pytest.raises(RuntimeError, match="gradient of x by the backend triton_gpu"):
        results(case, tensors)
    deterministic(True, warn_only=True)
    with pytest.warns(UserWarning, match="no fixed order"):
        ours = results(case, tensors)
    assert_close(ours, expected, 1e-14)


WITHOUT = """
import sys
if {blocked}: sys.modules["triton"] = None
import torch
from dlka_med.ops import deform_conv
from dlka_med.ops.backends import triton_gpu
deform_conv(torch.ones(1, 1, 3), torch.zeros(1, 1, 3), torch.ones(1, 1, 1), backend="reference")
assert triton_gpu.INSTALLED is not {blocked}
assert {blocked} or "triton" not in sys.modules
"""


@pytest.mark.parametrize("blocked", [False, True])
def test_triton_is_imported_only_when_asked_for(blocked):
    code = WITHOUT.format(blocked=blocked)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
