"""What the backends that register operators with PyTorch share: what they cannot be traced through, and refusals."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dlka_med.ops.geometry import Geometry


def why_not_traced(tool: str, tensors: Iterable[Tensor]) -> str | None:
    """The reason why a compiled kernel cannot stand where PyTorch traces or transforms, None if it can.

    `torch.compile` keeps the operator as it is; the transforms of `torch.func` and forward-mode derivatives would
    need rules, and an exported graph would need `tool`.
    """
    if torch.compiler.is_exporting():
        return f"an exported graph must not depend on {tool}"
    if torch.compiler.is_compiling():
        return None
    if torch._C._are_functorch_transforms_active():
        return "it has no rule for the transforms of torch.func"
    if any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        return "it has no forward-mode derivative"
    return None


def geometry_of(*settings: list[int] | int) -> Geometry:
    """The record, from the arguments of an operator."""
    *axes, groups, offset_groups = settings
    return Geometry.of(len(axes[0]), *map(tuple, axes), groups, offset_groups)


def outputs(x: Tensor, weight: Tensor | None) -> int:
    """Channels of the result for `x` `(B, *S, C)`."""
    return x.shape[-1] if weight is None else weight.shape[0]


def refuse_second_derivative(ctx, *gradients: Tensor) -> None:
    """The backward of a backward."""
    raise NotImplementedError("deform_conv: expected one backward pass, got a second derivative, which it has not")
