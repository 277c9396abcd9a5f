"""Whether Numba can compile in this process."""

from __future__ import annotations

import functools
import importlib

from dlka_med.ops.backends.registration import warn_of_reference


def why_not_started() -> str | None:
    """The reason why Numba cannot compile in this process, None if it can; said once as a warning."""
    return started()


# What `torch.compiler.assume_constant_result` does, which would import all of torch's compiler, and Triton, for it.
why_not_started._dynamo_marked_constant = True


@functools.cache
def started() -> str | None:
    """As `why_not_started`, found out once."""
    try:
        reason = "NUMBA_DISABLE_JIT is set" if importlib.import_module("numba").config.DISABLE_JIT else None
        if reason is None:
            importlib.import_module("dlka_med.ops.backends.numba_kernels")
    except Exception as error:
        reason = f"numba cannot start: {type(error).__name__}: {error}"
    if reason is not None:
        warn_of_reference(reason)
    return reason
