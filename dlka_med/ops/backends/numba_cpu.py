"""Deformable convolution on CPUs, forward and backward, by loops that Numba compiles."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from dlka_med.ops.geometry import Geometry

INSTALLED = importlib.util.find_spec("numba") is not None
TILE_BYTES = 2**19


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
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return "an exported graph must not depend on numba"
    if torch.compiler.is_compiling():
        return None
    if math.prod(x.shape[2:]) > torch.iinfo(torch.int32).max:
        return f"expected fewer than 2**31 voxels in an image, got shape {tuple(x.shape)}"
    if torch._C._are_functorch_transforms_active():
        return "it has no rule for the transforms of torch.func"
    tensors = (t for t in (x, offset, weight, bias, mask) if t is not None)
    if any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        return "it has no forward-mode derivative"
    return None


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
    offset, weight, bias, mask = (None if t is None else t.to(dtype) for t in (offset, weight, bias, mask))
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
    """`(B, *S, C)` to `(B, *S', O)`, both contiguous; the other tensors as in `deform_conv`, of the same dtype."""
    geometry = geometry_of(kernel_size, stride, padding, dilation, groups, offset_groups)
    problem = Problem(x, offset, weight, mask, geometry)
    y = x.new_empty(x.shape[0], *offset.shape[2:], outputs(x, weight))
    y.copy_(bias) if bias is not None else y.zero_()
    parallel(problem.forward, problem.spans(4), y.numpy())
    return y


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
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, offset, weight and mask; those of absent tensors are empty."""
    geometry = geometry_of(kernel_size, stride, padding, dilation, groups, offset_groups)
    problem = Problem(x, offset, weight, mask, geometry)
    return problem.gradients(grad_y.contiguous())
