"""Deformable convolution on CPUs, forward and backward, by loops that Numba compiles."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from dlka_med.ops.backends.numba_problem import Problem, why_too_large, with_one_stride
from dlka_med.ops.backends.numba_start import why_not_started
from dlka_med.ops.backends.registration import geometry_of, outputs, register_derivatives
from dlka_med.ops.geometry import Geometry
from dlka_med.ops.precision import autocast_off
from dlka_med.ops.tracing import why_not_traced

INSTALLED = importlib.util.find_spec("numba") is not None
# Offsets and mask in bfloat16 are read as they are, the loops computing in float32.
READABLE = {torch.bfloat16, torch.float32}


def why_not(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> str | None:
    """The reason why this backend cannot compute `deform_conv` of these arguments, None if it can."""
    if not INSTALLED:
        return "numba is not installed"
    if x.device.type != "cpu":
        return f"expected tensors on the cpu, got {x.device}"
    if geometry.spatial_dims > 3:
        return f"expected at most 3 spatial axes, got {geometry.spatial_dims}"
    if not torch.compiler.is_compiling() and (reason := why_too_large(x)) is not None:
        return reason
    return why_not_traced("numba", (t for t in (x, offset, weight, bias, mask) if t is not None)) or why_not_started()


def run(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """The result of `deform_conv`, its memory laid out channels-last; differentiable once."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (None if t is None else t.to(dtype) for t in (weight, bias))
    offset, mask = (t if t is None or {t.dtype, dtype} == READABLE else t.to(dtype) for t in (offset, mask))
    rows = x.to(dtype).movedim(1, -1).contiguous()
    axes = (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
    y = forward(rows, offset, weight, bias, mask, *axes, geometry.groups, geometry.offset_groups)
    return y.to(x.dtype).movedim(-1, 1)


@torch.library.custom_op("dlka_med::deform_conv_cpu", mutates_args=(), device_types="cpu")
def forward(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    """`(B, *S, C)` to `(B, *S', O)`, both contiguous; the other tensors as in `deform_conv`, of the same dtype.

    With float32 the offset and the mask may be bfloat16.
    """
    geometry = geometry_of(kernel_size, stride, padding, dilation, groups, offset_groups)
    return Problem(x, offset, weight, mask, geometry).result(bias)


@forward.register_fake
def _(x, offset, weight, bias, mask, kernel_size, stride, padding, dilation, groups, offset_groups):
    return x.new_empty(x.shape[0], *offset.shape[2:], outputs(x, weight))


@torch.library.custom_op("dlka_med::deform_conv_cpu_backward", mutates_args=(), device_types="cpu")
def backward(
    grad_y: Tensor,
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    wanted: list[bool],
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, offset, weight and mask; empty ones where not `wanted`."""
    geometry = geometry_of(kernel_size, stride, padding, dilation, groups, offset_groups)
    problem = Problem(x, offset, weight, mask, geometry)
    with autocast_off("cpu"):
        return problem.gradients(grad_y.detach().contiguous(), wanted)


@backward.register_fake
def _(grad_y, x, offset, weight, mask, wanted, *settings):
    grad_offset, grad_mask = (
        torch.empty_like(with_one_stride(t)).unflatten(2, t.shape[2:]) if for_it else x.new_empty(0)
        for t, for_it in ((offset, wanted[1]), (mask, wanted[3]))
    )
    grad_x, grad_weight = x.new_empty(x.shape if wanted[0] else 0), x.new_empty(weight.shape if wanted[2] else 0)
    return grad_x, grad_offset, grad_weight, grad_mask


register_derivatives(forward, backward)
