"""What the backends that register operators with PyTorch share: arguments and refusals."""

from __future__ import annotations

from torch import Tensor

from dlka_med.ops.geometry import Geometry


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
