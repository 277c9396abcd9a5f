"""A Numba that cannot start."""

import os
import subprocess
import sys

import pytest

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


@pytest.mark.slow
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
