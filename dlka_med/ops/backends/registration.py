"""What the backends that register operators with PyTorch share: arguments, derivatives and refusals."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from dlka_med.ops.geometry import Geometry


def geometry_of(*settings: list[int] | int) -> Geometry:
    """The record, from the arguments of an operator."""
    *axes, groups, offset_groups = settings
    return Geometry.of(len(axes[0]), *map(tuple, axes), groups, offset_groups)


def outputs(x: Tensor, weight: Tensor | None) -> int:
    """Channels of the result for `x` `(B, *S, C)`."""
    return x.shape[-1] if weight is None else weight.shape[0]


def register_derivatives(forward: Callable, backward: Callable) -> None:
    """Make `backward` the derivative of `forward`, and refuse that of `backward`.

    Both are custom operators: `forward(x, offset, weight, bias, mask, *settings)`, and `backward(grad_y, x, offset,
    weight, mask, wanted, *settings)`, whose result at what is not wanted is never looked at.
    """

    def keep(ctx, inputs, output) -> None:
        x, offset, weight, bias, mask, *ctx.settings = inputs
        ctx.save_for_backward(x, offset, weight, mask)
        ctx.bias_dtype = None if bias is None else bias.dtype

    def differentiate(ctx, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, weight, mask = ctx.saved_tensors
        for_x, for_offset, for_weight, for_bias, for_mask, *_ = ctx.needs_input_grad
        wanted = [for_x, for_offset, for_weight, for_mask]
        dtype = torch.promote_types(grad_y.dtype, torch.float32)
        grad_bias = grad_y.flatten(0, -2).sum(0, dtype=dtype).to(ctx.bias_dtype) if for_bias else None
        found = backward(grad_y, x, offset, weight, mask, wanted, *ctx.settings) if any(wanted) else [None] * 4
        grad_x, grad_offset, grad_weight, grad_mask = (g if w else None for g, w in zip(found, wanted, strict=True))
        return grad_x, grad_offset, grad_weight, grad_bias, grad_mask, *[None] * len(ctx.settings)

    forward.register_autograd(differentiate, setup_context=keep)
    backward.register_autograd(refuse_second_derivative)


def warn_of_reference(reason: str) -> None:
    """Say that a backend which would be faster cannot start."""
    warnings.warn(f"dlka_med: deform_conv is computed by the slower backend reference, since {reason}", stacklevel=2)


def refuse_second_derivative(ctx, *gradients: Tensor) -> None:
    """The backward of a backward."""
    raise NotImplementedError("deform_conv: expected one backward pass, got a second derivative, which it has not")
