"""Realistic sizes on a real device, all dtypes, against the reference in float64."""

import pytest
import torch

from dlka_med.ops.backends import reference, triton_gpu

from .cases import Case

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("triton_device")]

# Tolerances relative to the largest entry: sums of float32, and one rounding to half precision.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
REALISTIC = {
    "2d dcnv3": Case((56, 56), (64, 0), offset_groups=4, mask=True),
    "2d depthwise": Case((56, 56), (96, 96), kernel=5, padding=2, groups=96, bias=True),
    "2d dense": Case((56, 57), (64, 128), mask=True, bias=True),
    "2d groups that cross": Case((40, 40), (96, 96), groups=3, offset_groups=2, mask=True),
    "3d depthwise": Case((16, 16, 16), (64, 64), kernel=5, padding=6, dilation=3, groups=64, bias=True),
    "3d dense": Case((16, 15, 16), (32, 48), mask=True),
    "3d dense strided": Case((32, 32, 32), (32, 64), stride=2, bias=True),
}


def results(case, tensors, backend):
    """The output and the gradients of all tensors, in float64."""
    tensors = {name: None if t is None else t.detach().requires_grad_() for name, t in tensors.items()}
    y = backend.run(*(tensors[name] for name in ("x", "offset", "weight", "bias", "mask")), case.geometry)
    present = [t for t in tensors.values() if t is not None]
    slope = torch.arange(y.numel(), dtype=torch.float64).reshape(y.shape).sin().to(torch.float16).to(y.dtype)
    return [t.detach().double() for t in (y, *torch.autograd.grad(y, present, slope))]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", REALISTIC.values(), ids=REALISTIC)
def test_realistic_problems_agree_with_the_reference(case, dtype):
    if not torch.cuda.is_available():
        pytest.skip("NOT TESTED: no CUDA device")
    tensors = case.tensors(dtype)
    expected = results(case, {name: None if t is None else t.double() for name, t in tensors.items()}, reference)
    for ours, other in zip(results(case, tensors, triton_gpu), expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=TOLERANCES[dtype] * other.abs().max().item())
