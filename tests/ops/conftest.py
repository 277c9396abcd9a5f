"""Every test that asks for `backend` runs once per backend in the table."""

import pytest

from dlka_med.ops.backends import BACKENDS

from .cases import CASES


@pytest.fixture(params=list(BACKENDS))
def backend(request):
    return request.param


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
