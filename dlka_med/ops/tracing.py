"""Where a compiled kernel cannot stand, since PyTorch traces or transforms what it is given; subclasses of tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.overrides import handle_torch_function, has_torch_function_unary


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


def applied(function: type[Function], x: Tensor, *rest: Any) -> Tensor:
    """`function.apply`, whose result may be changed in place whatever the class of x is.

    Of a subclass such as MONAI's MetaTensor a function would return a view made inside it, which autograd lets nobody
    change: here it returns a plain tensor, which gets the class of x outside.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(applied, (x,), function, x, *rest)
    return function.apply(x, *rest)
