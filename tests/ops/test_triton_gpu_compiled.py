"""The kernels compiled for GPUs that need not be there: the interpreter accepts what the compiler refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlka_med.ops.backends import triton_gpu

SCRIPT = Path(__file__).with_name("compile_triton.py")
KERNELS = {"weighted_sum", "convolution", "data_gradient", "weight_gradient"}


def compiled(version, wide, *problems):
    """What the kernels take, compiled anew for one kind of device."""
    if not triton_gpu.INSTALLED:
        pytest.skip("NOT TESTED: triton is not installed")
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(SCRIPT.parents[2])}
    arguments = [str(version), "0" if wide else str(2**31), *problems]
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_small(found):
    """Shared memory that every device has, and next to nothing that spills from the registers."""
    assert [one for one in found if one["shared"] > 48 * 2**10 or one["stack"] > 64] == []


def test_depthwise():
    found = compiled(90, False, "depthwise")
    assert {one["kernel"] for one in found} == KERNELS - {"convolution"}
    assert_small(found)


@pytest.mark.slow
@pytest.mark.parametrize(("version", "wide"), [(80, False), (90, False), (90, True)])
def test_all(version, wide):
    found = compiled(version, wide)
    assert {one["kernel"] for one in found} == KERNELS
    assert_small(found)


@pytest.mark.slow
def test_the_oldest_gpu_takes_all_dtypes():
    found = compiled(70, False, "depthwise", "dense")
    assert {one["problem"].split("torch.")[1] for one in found} == {"float32", "float16", "bfloat16"}
    assert_small(found)
