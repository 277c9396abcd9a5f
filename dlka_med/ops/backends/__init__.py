"""The backends of `deform_conv`, best first.

Each is a module with two functions of the same arguments `(x, offset, weight, bias, mask, geometry)`, which
`deform_conv` has checked:

`why_not(...) -> str | None`: the reason why it cannot compute this, or None if it can.
`run(...) -> Tensor`: the result.
"""

from types import ModuleType

from dlka_med.ops.backends import numba_cpu, reference, triton_gpu

BACKENDS: dict[str, ModuleType] = {"numba_cpu": numba_cpu, "triton_gpu": triton_gpu, "reference": reference}
