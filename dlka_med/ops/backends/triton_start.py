"""Whether Triton can compile for a device."""

from __future__ import annotations

import functools
import importlib
import os
import shutil

import torch

from dlka_med.ops.backends.registration import warn_of_reference

OLDEST = (7, 0)  # bfloat16 too compiles for it, though it came with 8.0


def why_not_started(device: torch.device, half_products: bool) -> str | None:
    """The reason why Triton cannot compile for a device, None if it can; said once as a warning.

    Args:
        device: of real tensors, or of fake ones, for which any device will do.
        half_products: whether matrices of half precision are multiplied.
    """
    return started(device, half_products)


# What `torch.compiler.assume_constant_result` does, which would import all of torch's compiler for it.
why_not_started._dynamo_marked_constant = True


@functools.cache
def started(device: torch.device, half_products: bool) -> str | None:
    """As `why_not_started`, found out once for a device."""
    if not torch.cuda.is_available():
        return None
    reason = why_not_device(device, half_products) or why_not_compiler() or why_not_driver()
    if reason is not None:
        warn_of_reference(reason)
    return reason


def why_not_device(device: torch.device, half_products: bool) -> str | None:
    """The reason that lies in the kind of device."""
    if torch.version.hip is not None:
        # Its part of Triton lacks tf32x3, by which they are multiplied here.
        return "triton multiplies no matrices of half precision on ROCm" if half_products else None
    found = torch.cuda.get_device_capability(device)
    if found >= OLDEST:
        return None
    return "triton needs a GPU of compute capability {}.{}, {} has {}.{}".format(
        *OLDEST, torch.cuda.get_device_name(device), *found
    )


def why_not_compiler() -> str | None:
    """Triton builds what starts its kernels by the C compiler that CC names, else by gcc or clang.

    Its builds for Windows bring one along.
    """
    named = os.environ.get("CC")
    if os.name == "nt" or any(shutil.which(name) for name in (("gcc", "clang") if named is None else (named,))):
        return None
    found = "no gcc or clang on PATH" if named is None else f"no program CC={named!r}"
    return f"triton needs a C compiler, and there is {found}"


def why_not_driver() -> str | None:
    """What Triton says when it starts, where for instance the headers of Python are missing."""
    try:
        importlib.import_module("triton").runtime.driver.active.get_current_target()
    except Exception as error:
        return f"triton cannot start: {type(error).__name__}: {error}"
    return None
