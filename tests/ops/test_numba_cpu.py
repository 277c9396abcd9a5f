"""What is particular to the CPU backend: threads, processes, the disk, tracing, tiles."""

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from dlka_med.ops.backends import numba_cells, numba_cpu, reference

from .cases import Case

LARGE = {
    "2d dense": Case((33, 41), (19, 21), bias=True, mask=True),
    "2d depthwise": Case((40, 37), (48, 48), kernel=5, padding=6, dilation=3, groups=48, offset_groups=2, bias=True),
    "2d grouped": Case((31, 30), (24, 36), groups=3, offset_groups=4, mask=True, stride=(2, 1)),
    "3d dense": Case((11, 14, 13), (32, 24), bias=True),
    "3d depthwise": Case((13, 9, 12), (40, 40), groups=40, padding=2, dilation=2, mask=True),
    "3d grouped": Case((7, 12, 10), (16, 32), groups=4, offset_groups=2, stride=(1, 2, 1)),
    "3d no weight": Case((9, 11, 10), (36, 0), offset_groups=3, mask=True, bias=True),
}


LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels-last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "sliced": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
    "expanded": lambda t: t[..., :1, :1].expand(t.shape),
}


@pytest.fixture
def threads():
    """`torch.set_num_threads`, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def run(case, tensors, backend=numba_cpu):
    return backend.run(*(tensors[name] for name in ("x", "offset", "weight", "bias", "mask")), case.geometry)


def results(case, tensors, backend=numba_cpu):
    """The output and the gradients of all tensors."""
    tensors = {name: None if t is None else t.clone().requires_grad_() for name, t in tensors.items()}
    y = run(case, tensors, backend)
    present = [t for t in tensors.values() if t is not None]
    return [y.detach(), *torch.autograd.grad(y, present, torch.arange(y.numel()).reshape(y.shape).sin())]


def assert_close(ours, expected, tolerance):
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * other.abs().max().item())


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_large_problems_agree_with_the_reference(case):
    tensors = case.tensors(torch.float32)
    assert_close(results(case, tensors), results(case, tensors, reference), 1e-5)


def test_positions_are_rounded_as_in_the_reference():
    """Just below an integer the order of the sum decides the cell, and with it the gradient of the offset."""
    case = Case((17, 19, 16), (8, 8), padding=6, dilation=6, groups=8)
    tensors = case.tensors(torch.float32, spread=4)
    tensors["offset"] = torch.nextafter(tensors["offset"].round(), torch.tensor(-torch.inf))
    assert_close(results(case, tensors), results(case, tensors, reference), 1e-5)


@pytest.mark.parametrize("name", ["2d depthwise", "3d dense"])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_number_of_threads_changes_no_more_than_rounding(name, batch, threads):
    tensors = LARGE[name].tensors(torch.float32, batch=batch)
    threads(1)
    expected = results(LARGE[name], tensors)
    for number in (2, 3):
        threads(number)
        ours = results(LARGE[name], tensors)
        assert_close(ours, expected, 1e-5)
        assert all(map(torch.equal, ours, results(LARGE[name], tensors)))
        assert torch.get_num_threads() == number


WANTED = [("2d depthwise", "x"), ("2d depthwise", "weight"), ("2d depthwise", "offset"), ("2d depthwise", "bias")]
WANTED += [("2d grouped", "x"), ("2d grouped", "weight"), ("2d grouped", "offset mask"), ("2d grouped", "mask")]


@pytest.mark.parametrize(("name", "wanted"), WANTED)
def test_only_the_gradients_that_are_asked_for_are_computed(name, wanted, monkeypatch):
    case, made, make = LARGE[name], [], numba_cpu.Problem.gradients
    tensors = case.tensors(torch.float32)
    monkeypatch.setattr(numba_cpu.Problem, "gradients", lambda *a: made.append(make(*a)) or made[-1])
    for key in wanted.split():
        tensors[key].requires_grad_()
    ours, expected = (
        torch.autograd.grad(run(case, tensors, backend).sin().sum(), [tensors[key] for key in wanted.split()])
        for backend in (numba_cpu, reference)
    )
    assert_close(ours, expected, 1e-5)
    computed = {
        key for found in made for key, t in zip(("x", "offset", "weight", "mask"), found, strict=True) if t.numel()
    }
    assert computed == set(wanted.split()) - {"bias"}


@pytest.mark.parametrize(("name", "groups"), [("2d depthwise", 72), ("2d dense", 1), ("2d grouped", 3)])
def test_many_threads_hold_no_more_copies_of_x_than_the_tensors_of_the_call(name, groups, threads, monkeypatch):
    case = dataclasses.replace(LARGE[name], channels=(72, 72), groups=groups)
    tensors = case.tensors(torch.float32, batch=1)
    threads(2)
    expected = results(case, tensors)
    held, parts, backward = set(), set(), numba_cpu.Problem.backward

    def spy(problem, grad_y, grad_x, *rest):
        if grad_x is not None:
            held.add(grad_x.data_ptr())
            parts.add((grad_x.data_ptr(), *rest[-2:]))
        backward(problem, grad_y, grad_x, *rest)

    monkeypatch.setattr(numba_cpu.Problem, "backward", spy)
    threads(16)
    ours = results(case, tensors)
    numbers = ours[0].numel() + sum(t.numel() for t in tensors.values() if t is not None)
    assert (len(held) - 1) * tensors["x"].numel() <= numbers
    assert len(held) < len(parts) <= 16
    assert_close(ours, expected, 1e-5)
    assert all(map(torch.equal, ours, results(case, tensors)))


def test_memory_for_columns_is_bounded(monkeypatch):
    made, make = [], numba_cpu.Problem.new_columns
    monkeypatch.setattr(numba_cpu, "TILE_BYTES", 20000)
    monkeypatch.setattr(numba_cpu.Problem, "new_columns", lambda *a: made.append(make(*a)) or made[-1])
    case = LARGE["3d dense"]
    tensors = case.tensors(torch.float32)
    assert_close(results(case, tensors), results(case, tensors, reference), 1e-5)
    assert 10000 < max(columns.nbytes for columns in made) <= 20000


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


def test_several_python_threads_at_once(threads):
    threads(2)
    problems = [(case, case.tensors(torch.float32)) for case in LARGE.values()] * 2
    expected = [results(*problem) for problem in problems]
    with ThreadPoolExecutor(4) as executor:
        for ours, theirs in zip(executor.map(lambda problem: results(*problem), problems), expected, strict=True):
            assert_close(ours, theirs, 1e-5)


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


BROKEN = """
import sys, warnings, torch
from dlka_med.ops import deform_conv
from dlka_med.ops.backends import numba_cpu
if sys.argv[1] == "import":
    sys.modules["llvmlite"] = None
tensors = [torch.ones(shape, requires_grad=True) for shape in [(1, 2, 4, 4), (1, 18, 4, 4), (2, 2, 3, 3)]]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(3):
        y = deform_conv(*tensors, padding=1)
    y.sum().backward()
print(len([w for w in said if "reference" in str(w.message)]), said[0].message)
assert torch.equal(y, deform_conv(*tensors, padding=1, backend="reference"))
try:
    deform_conv(*tensors, padding=1, backend="numba_cpu")
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(("broken", "reason"), [("jit", "NUMBA_DISABLE_JIT"), ("import", "llvmlite")])
def test_a_numba_that_cannot_start_leaves_it_to_the_reference_with_one_warning(broken, reason):
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1" if broken == "jit" else "0"}
    command = [sys.executable, "-c", BROKEN, broken]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    warned, refused = done.stdout.splitlines()
    assert warned.startswith("1 dlka_med: deform_conv")
    assert reason in warned
    assert reason in refused


def test_a_forked_child_can_go_on():
    assert subprocess.run([sys.executable, "-c", FORK], timeout=300, check=False).returncode == 0


def test_where_nothing_can_be_kept_on_disk_a_warning_is_the_price():
    """Numba finds no folder for a function that stands in no file."""
    space = {}
    exec(compile("def double(x):\n    return 2 * x", "<nowhere>", "exec"), space)
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR"):
        double = numba_cells.compiled(space["double"])
    assert double(21) == 42


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


def test_an_image_too_large_for_its_indices_is_refused_by_the_operator_too():
    """A compiled graph asks `why_not` for no size."""
    case = Case((5, 6), (4, 3))
    x, offset = torch.zeros(1).expand(1, 2**13, 2**10, 2**9), torch.zeros(1).expand(1, 18, 2**13, 2**10)
    with pytest.raises(ValueError, match=r"fewer than 2\*\*32 - 1 numbers"):
        numba_cpu.Problem(x, offset, None, None, case.geometry)


def test_no_second_derivative():
    case = Case((5, 6), (4, 3))
    tensors = case.tensors()
    x, offset, weight = (tensors[key].requires_grad_() for key in ("x", "offset", "weight"))
    slope, *_ = torch.autograd.grad(run(case, tensors).sum(), (x, offset, weight), create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        slope.sum().backward()
