"""Every test that asks for `backend` runs once per backend in the table, on the device that it is for.

Without a CUDA device Triton's interpreter, which tests/conftest.py asks for, runs the kernels of triton_gpu. As it is
slow, only some of these tests run by default.
"""

from contextlib import nullcontext

import pytest
import torch

from dlka_med.ops.backends import BACKENDS, triton_gpu

from .cases import CASES

CUDA = torch.cuda.is_available()

QUICK = {
    "test_values": ("1d", "2d groups that cross", "2d depthwise multiplied", "3d depthwise plain", "3d one point"),
    "test_gradients_are_those_of_the_nested_loops": ("2d grouped", "2d no weight", "3d one point"),
    "test_half_is_rounded_once": ("3d no weight-dtype0", "2d groups that cross-dtype1"),
    "test_points_outside_read_nothing_not_even_nan": ("2-nan", "3-inf", "2--1e+30", "3-3000000000.0", "3--7.0"),
    "test_one_axis_outside_is_as_if_masked": ("2d depthwise offset groups",),
    "test_the_surroundings_of_a_view_are_not_read": ("1.5-2d depthwise offset groups", "100.0-2d groups that cross"),
    "test_an_empty_batch": ("2d dense strided", "3d no weight"),
    "test_an_axis_of_size_zero_is_all_padding": ("",),
    "test_autocast_changes_nothing": ("",),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests of triton_gpu: all need the device if there is one, else most are slow."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        if parameters is None or parameters.params.get("backend") != "triton_gpu":
            continue
        label = parameters.id.replace("triton_gpu", "").strip("-")
        if CUDA:
            item.add_marker("gpu")
        elif label not in QUICK.get(item.originalname, ()):
            item.add_marker("slow")


@pytest.fixture
def triton_device():
    """Where tensors for triton_gpu lie: the default device while a test runs."""
    if not triton_gpu.INSTALLED or not (CUDA or triton_gpu.interpreted()):
        pytest.skip("NOT TESTED: triton_gpu needs triton, and a CUDA device or its interpreter")
    with torch.device("cuda") if CUDA else nullcontext():
        yield "cuda" if CUDA else "cpu"


@pytest.fixture(params=list(BACKENDS))
def backend(request):
    """A backend's name; new tensors lie where it needs them."""
    if request.param == "triton_gpu":
        request.getfixturevalue("triton_device")
    return request.param


@pytest.fixture
def threads():
    """`torch.set_num_threads`, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request):
    return request.param


@pytest.fixture
def solve_or_skip(backend):
    """`case.run` by the backend under test; skips, saying why, what that backend does not compute."""

    def run(case, tensors):
        arguments = [tensors[name] for name in ("x", "offset", "weight", "bias", "mask")]
        reason = BACKENDS[backend].why_not(*arguments, case.geometry)
        if reason is not None:
            pytest.skip(f"{backend}: {reason}")
        return case.run(tensors, backend)

    return run
