"""Devices on which Triton cannot compile, none of which is here: what PyTorch says of them is feigned."""

import types
import warnings

import pytest
import torch

from dlka_med.ops.backends import triton_gpu, triton_start, triton_tiles
from dlka_med.ops.deform_conv import chosen_backend

from .cases import CASES

pytestmark = pytest.mark.skipif(not triton_gpu.INSTALLED, reason="NOT TESTED: triton is not installed")
DENSE, DEPTHWISE = CASES["2d grouped"], CASES["2d depthwise"]


class OnCuda(torch.Tensor):
    """A tensor of the CPU that claims to lie on a CUDA device."""

    device = property(lambda self: torch.device("cuda", 0))


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Change the GPU that is feigned: its compute capability; a new GPU at first, and a compiler beside it."""
    capability = [(9, 0)]
    compiler = tmp_path / "gcc"
    compiler.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU of a test")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    monkeypatch.setattr(triton_start, "why_not_driver", lambda: None)
    triton_start.started.cache_clear()
    yield lambda *version: capability.__setitem__(0, version)
    triton_start.started.cache_clear()


def reason(case=DENSE, dtype=torch.float32):
    """What `why_not` says, and the warning that must come with it."""
    arguments = [t if t is None else t.as_subclass(OnCuda) for t in case.tensors(dtype).values()]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = triton_gpu.why_not(*arguments, case.geometry)
        again = triton_gpu.why_not(*arguments, case.geometry)
    assert again == found
    expected = [] if found is None else [f"dlka_med: deform_conv is computed by the slower backend reference, {found}"]
    assert [str(one.message).replace("since ", "") for one in said] == expected
    return found


@pytest.mark.parametrize("dtype", triton_gpu.DTYPES)
def test_a_new_gpu_with_a_compiler_takes_all_dtypes(gpu, dtype):
    assert reason(DENSE, dtype) is None
    assert reason(DEPTHWISE, dtype) is None


@pytest.mark.parametrize(("version", "works"), [((5, 2), False), ((6, 1), False), ((7, 0), True), ((7, 5), True)])
def test_gpus_of_before_7_0_are_too_old(gpu, version, works):
    gpu(*version)
    found = reason()
    assert (found is None) == works
    assert works or f"capability 7.0, GPU of a test has {version[0]}.{version[1]}" in found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rocm_has_no_products_of_half_precision(gpu, dtype, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "half precision on ROCm" in reason(DENSE, dtype)
    assert reason(DENSE, torch.float32) is None
    assert reason(DEPTHWISE, dtype) is None
    assert reason(CASES["2d no weight"], dtype) is None


def test_rocm_multiplies_float32_as_it_is(monkeypatch):
    fast = types.SimpleNamespace(fp32_precision="tf32")
    monkeypatch.setattr(torch.backends.cuda, "matmul", fast)
    assert triton_tiles.precision(torch.float32) == "tf32"
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert triton_tiles.precision(torch.float32) == "ieee"


@pytest.mark.parametrize("rocm", [False, True])
def test_no_c_compiler(gpu, rocm, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0" if rocm else None)
    (tmp_path / "gcc").unlink()
    assert reason() == "triton needs a C compiler, and there is no gcc or clang on PATH"


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_compilers_on_the_path(gpu, compiler, tmp_path):
    (tmp_path / "gcc").rename(tmp_path / compiler)
    assert reason() is None


def test_the_compiler_that_cc_names_is_the_only_one(gpu, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere" / "cc"
    monkeypatch.setenv("CC", str(elsewhere))
    assert reason() == f"triton needs a C compiler, and there is no program CC={str(elsewhere)!r}"
    elsewhere.parent.mkdir()
    (tmp_path / "gcc").rename(elsewhere)
    triton_start.started.cache_clear()
    assert reason() is None


def test_a_compiler_is_looked_for_where_triton_looks(gpu, tmp_path, monkeypatch):
    """Triton's own search agrees, with and without."""
    build = pytest.importorskip("triton.runtime.build")
    if not hasattr(build, "_find_compiler"):
        pytest.skip("NOT TESTED: this Triton keeps its search elsewhere")
    search = build._find_compiler.__wrapped__
    assert search("c") == str(tmp_path / "gcc")
    (tmp_path / "gcc").rename(tmp_path / "cc")
    with pytest.raises(RuntimeError, match="C compiler"):
        search("c")
    assert "C compiler" in reason()


def test_what_triton_says_when_it_starts(gpu, monkeypatch):
    monkeypatch.undo()
    driver = pytest.importorskip("triton.runtime").driver

    class Broken:
        def get_current_target(self):
            raise FileNotFoundError("Python.h")

    monkeypatch.setattr(type(driver), "active", Broken())
    assert triton_start.why_not_driver() == "triton cannot start: FileNotFoundError: Python.h"


def test_a_device_is_looked_at_once(gpu, monkeypatch):
    looks = []
    monkeypatch.setattr(triton_start, "why_not_compiler", lambda: looks.append(1))
    for _ in range(3):
        assert reason() is None
    assert len(looks) == 1
    reason(dtype=torch.float16)
    assert len(looks) == 2


def test_the_reference_takes_over(gpu):
    gpu(6, 1)
    tensors = [t if t is None else t.as_subclass(OnCuda) for t in DENSE.tensors(torch.float32).values()]
    assert "capability 7.0" in reason()
    assert chosen_backend(None, (*tensors, DENSE.geometry)) == "reference"
    with pytest.raises(ValueError, match="backend triton_gpu: triton needs a GPU"):
        chosen_backend("triton_gpu", (*tensors, DENSE.geometry))


def test_a_compiled_graph_takes_the_answer_as_it_is(gpu, monkeypatch):
    """It does not trace how the answer was found."""
    gpu(6, 1)
    assert reason() is not None
    monkeypatch.undo()

    def ask(x):
        return x + 1 if triton_start.why_not_started(torch.device("cuda", 0), False) is None else x - 1

    assert torch.equal(torch.compile(ask, backend="eager", fullgraph=True)(torch.ones(2)), torch.zeros(2))
