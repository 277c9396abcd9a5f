"""How windows pass a network."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from dlka_med.data.intensity import Scale

Precision = Literal["fp32", "bf16", "fp16"]


def window_forward(
    network: nn.Module,
    mirror_axes: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    across: int | None = None,
    scale: Scale | None = None,
) -> Callable[[Tensor], Tensor]:
    """Windows (B, C, *patch) -> logits (B, K, *patch), float32, averaged over the mirrored ones.

    Args:
        mirror_axes: of what the network sees: logits are averaged over all combinations of flips.
        dtype: in which the network runs.
        across: the axis of the image along which windows are one voxel thick; the network sees the slices.
        scale: what is done with the grey values of windows before; None: nothing.
    """
    flips = [flip for n in range(len(mirror_axes) + 1) for flip in combinations(mirror_axes, n)]

    def mirrored(windows: Tensor) -> Tensor:
        logits = None
        for flip in flips:
            axes = [axis + 2 for axis in flip]
            one = network(windows.flip(axes))  # a copy: a network may change what it is given
            one = (one.flip(axes) if axes else one).float()
            logits = one if logits is None else logits + one
        return logits / len(flips) if len(flips) > 1 else logits

    def forward(windows: Tensor) -> Tensor:
        windows = windows if scale is None else _scaled(windows, scale)
        with _fast(dtype, device):
            if across is None:
                return mirrored(windows)
            return mirrored(windows.squeeze(across + 2)).unsqueeze(across + 2)

    return forward


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """The numbers of a precision on this device; float32 where it has no kernels for others."""
    if precision == "bf16" and (device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())):
        return torch.bfloat16
    return torch.float16 if precision == "fp16" and device.type == "cuda" else torch.float32


@contextmanager
def _fast(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """The precision of the network, and cuDNN's search for the fastest kernels: all windows have one size."""
    searching = torch.backends.cudnn.benchmark
    repeatable = torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = searching or not repeatable
    try:
        with torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext():
            yield
    finally:
        torch.backends.cudnn.benchmark = searching


def _scaled(windows: Tensor, scale: Scale) -> Tensor:
    """Windows (B, C, *patch), scaled as whole images are."""
    lower, upper, mean, std = (
        torch.from_numpy(numbers).to(windows.device).reshape(-1, *[1] * (windows.ndim - 2))
        for numbers in (scale.lower, scale.upper, scale.mean, scale.std)
    )
    return (windows.clamp(lower, upper) - mean) / std
