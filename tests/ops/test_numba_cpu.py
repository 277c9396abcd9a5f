"""What is particular to the CPU backend: dtypes, processes, tracing. See test_numba_problem.py for its threads."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from dlka_med.ops.backends import numba_cpu

from .cases import Case
from .large import LARGE, LAYOUTS, assert_close, results, run


@pytest.mark.parametrize("name", ["2d dense", "2d depthwise"])
def test_backward_under_autocast_computes_in_single_precision(name):
    case = LARGE[name]
    tensors = {key: t if t is None else t.requires_grad_() for key, t in case.tensors(torch.float32).items()}
    present = [t for t in tensors.values() if t is not None]
    y = run(case, tensors)
    expected = torch.autograd.grad(y, present, torch.ones_like(y), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = torch.autograd.grad(y, present, torch.ones_like(y))
    assert all(map(torch.equal, ours, expected))


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "sliced"])
def test_bfloat16_is_read_as_it_is_and_computed_in_float32(layout):
    case = LARGE["3d depthwise"]
    narrow = {key: t if t is None else LAYOUTS[layout](t.bfloat16()) for key, t in case.tensors().items()}
    wide = {key: t if t is None else t.float() for key, t in narrow.items()}
    ours, expected = results(case, narrow), results(case, wide)
    assert all(t.dtype == torch.bfloat16 for t in ours)
    assert_close([t.float() for t in ours], [t.bfloat16().float() for t in expected], 2**-7)


@pytest.mark.parametrize("name", LARGE)
def test_in_inference_mode(name):
    tensors = LARGE[name].tensors(torch.float32)
    expected = run(LARGE[name], tensors)
    with torch.inference_mode():
        assert_close(
            [run(LARGE[name], {key: None if t is None else t.clone() for key, t in tensors.items()})], [expected], 1e-6
        )


FORK = """
import os, warnings, torch
from dlka_med.ops.backends import numba_cpu
from dlka_med.ops.geometry import Geometry
warnings.simplefilter("ignore")
torch.set_num_threads(2)
tensors = [torch.randn(*shape, requires_grad=True) for shape in [(2, 4, 9, 9), (2, 18, 9, 9), (4, 4, 3, 3)]]
def answer():
    y = numba_cpu.run(*tensors, None, None, Geometry.of(2, 3, padding=1))
    return [y, *torch.autograd.grad(y.sum(), tensors)]
expected = answer()
child = os.fork()
if child == 0:
    os._exit(0 if all(map(torch.allclose, answer(), expected)) else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_can_go_on():
    assert subprocess.run([sys.executable, "-c", FORK], timeout=300, check=False).returncode == 0


def test_compiled_whole():
    case = Case((5, 6), (4, 3))
    tensors = {name: t if t is None else t.requires_grad_() for name, t in case.tensors().items()}

    def loss(x, offset, weight):
        return run(case, tensors | {"x": x, "offset": offset, "weight": weight}).square().sum()

    present = [tensors["x"], tensors["offset"], tensors["weight"]]
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    ours, expected = (torch.autograd.grad(function(*present), present) for function in (compiled, loss))
    assert_close(ours, expected, 1e-12)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_registration(form):
    x, offset = torch.randn(1, 3, 4, 4, dtype=torch.float64), torch.randn(1, 2 * 2, 3, 3, dtype=torch.float64)
    weight, mask = torch.randn(2, 4, 1, 2, dtype=torch.float64), torch.rand(1, 2, 3, 3, dtype=torch.float64)
    x, offset, weight, mask = (t.contiguous(memory_format=form).requires_grad_() for t in (x, offset, weight, mask))
    tensors = (x, offset, weight, None, mask)
    torch.library.opcheck(torch.ops.dlka_med.deform_conv_cpu, (*tensors, [1, 2], [1, 1], [0, 0], [1, 1], 1, 1))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["2d dense", "2d depthwise", "3d grouped", "3d no weight"])
def test_gradients_have_the_strides_that_are_foretold(name, layout):
    case = LARGE[name]
    tensors = {key: t if t is None else layout(t) if key != "bias" else t for key, t in case.tensors().items()}
    x = tensors["x"].movedim(1, -1).contiguous()
    geometry = case.geometry
    axes = [list(axis) for axis in (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)]
    wanted = [True, True, case.channels[1] > 0, case.mask]
    inputs = [
        x,
        *(tensors[key] for key in ("offset", "weight", "mask")),
        wanted,
        *axes,
        case.groups,
        case.offset_groups,
    ]
    grad_y = torch.ones(2, *tensors["offset"].shape[2:], case.channels[1] or case.channels[0], dtype=x.dtype)
    real = numba_cpu.backward(grad_y, *inputs)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for t in (grad_y, *inputs)]
        fake = numba_cpu.backward(*fakes)
    assert [(t.shape, t.stride()) for t in real] == [(t.shape, t.stride()) for t in fake]


class Watched(torch.nn.Module):
    """The identity, which calls `watch` with its input."""

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def forward(self, x):
        self.watch(x)
        return x.clone()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_it_leaves_to_the_reference():
    case = Case((5, 6), (4, 3))
    tensors = case.tensors()
    arguments = (tensors["offset"], tensors["weight"], None, None, case.geometry)

    def reason(x):
        return numba_cpu.why_not(x, *arguments)

    assert reason(tensors["x"]) is None
    reasons = []
    torch.func.grad(lambda x: reasons.append(reason(x)) or x.sum())(tensors["x"])
    with forward_ad.dual_level():
        reasons.append(reason(forward_ad.make_dual(tensors["x"], tensors["x"])))
    torch.export.export(Watched(lambda x: reasons.append(reason(x))), (tensors["x"],), strict=False)
    reasons.append(reason(tensors["x"].to("meta")))
    for said, expected in zip(reasons, ("torch.func", "forward-mode", "exported", "cpu"), strict=True):
        assert expected in said


def test_no_second_derivative():
    case = Case((5, 6), (4, 3))
    tensors = case.tensors()
    x, offset, weight = (tensors[key].requires_grad_() for key in ("x", "offset", "weight"))
    slope, *_ = torch.autograd.grad(run(case, tensors).sum(), (x, offset, weight), create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        slope.sum().backward()
