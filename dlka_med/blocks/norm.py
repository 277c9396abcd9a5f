"""Norms that leave channels-last tensors as they are in memory."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dlka_med.blocks.dims import check_choice, check_spatial_dims
from dlka_med.ops.layout import channels_last
from dlka_med.ops.tracing import applied, why_not_traced

Norm = Literal["batch", "instance"]
LONGEST_ROW, CACHED = 64, 2**17
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def norm_layer(norm: Norm, spatial_dims: int, channels: int) -> nn.Module:
    """Norm of x `(B, channels, *S)`: "batch", or "instance" (per image and channel, without parameters).

    Raises:
        ValueError: for other values of `norm` or `spatial_dims`.
    """
    check_spatial_dims(spatial_dims)
    check_choice("norm", norm, ("batch", "instance"))
    return InstanceNorm() if norm == "instance" else BATCH_NORM[spatial_dims](channels)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of x `(B, C, *S)`; without a copy where x is channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class InstanceNorm(nn.Module):
    """Zero mean and unit variance per image and channel of x `(B, C, *S)`, without parameters.

    Sums are in float32 at least; the result has the dtype of x. `F.instance_norm` would copy channels-last tensors and
    answer channels-first; and its gradient is wrong on CPUs where a batch of one image gets a channels-last gradient
    (torch 2.14).
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x.clone()
        if torch.compiler.is_compiling() or why_not_traced("this way", (x,)) is not None:
            return _normalised(x, self.eps)[0].to(x.dtype)
        return applied(_InstanceNorm, channels_last(x), self.eps)


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The formula, differentiable any number of times: the result in float32 at least, and its scale."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, tuple(range(2, x.ndim)), correction=0, keepdim=True)
    scale = torch.rsqrt(variance + eps)
    return (wide - mean) * scale, scale


class _InstanceNorm(torch.autograd.Function):
    """Of x in channels-last memory.

    Computed on rows of many voxels each: torch is slow at short ones, which the channels alone would be.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        channels, rows = x.shape[1], _rows(x)
        voxels, dtype = x[0, 0].numel(), torch.promote_types(x.dtype, torch.float32)
        mean = _fold(rows.sum(1, keepdim=True, dtype=dtype), channels) / voxels
        squares = sum((part - mean).square().sum(1, keepdim=True) for part in _parts(rows))
        scale = torch.rsqrt(_fold(squares, channels) / voxels + eps)
        ctx.save_for_backward(x, mean, scale)
        ctx.eps = eps
        y = torch.empty_like(x)
        shift = -mean * scale
        for into, part in zip(_parts(_rows(y)), _parts(rows), strict=True):
            torch.addcmul(shift, part, scale, out=into)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _gradient(x, grad, ctx.eps), None
        voxels, channels, dtype = x[0, 0].numel(), x.shape[1], mean.dtype
        rows, above = _rows(x), _rows(channels_last(grad))
        pairs = list(zip(_parts(rows), _parts(above), strict=True))
        products = sum(((part - mean) * given).sum(1, keepdim=True) for part, given in pairs)
        slope = _fold(products, channels) / voxels * scale.square()
        shift = mean * slope - _fold(above.sum(1, keepdim=True, dtype=dtype), channels) / voxels
        grad_x = torch.empty_like(x)
        for into, (part, given) in zip(_parts(_rows(grad_x)), pairs, strict=True):
            if x.dtype == dtype:
                torch.addcmul(given + shift, part, slope, value=-1, out=into).mul_(scale)
            else:
                into.copy_(torch.addcmul(given + shift, part, slope, value=-1).mul_(scale))
        return grad_x, None


def _gradient(x: Tensor, grad: Tensor, eps: float) -> Tensor:
    """The formula, for derivatives of it."""
    y, scale = _normalised(x, eps)
    wide, axes = grad.to(y.dtype), tuple(range(2, x.ndim))
    shared = wide.mean(axes, keepdim=True) + y * (y * wide).mean(axes, keepdim=True)
    return (scale * (wide - shared)).to(x.dtype)


def _rows(x: Tensor) -> Tensor:
    """The memory of x `(B, C, *S)`, channels-last, as `(B, rows, voxels of a row * C)`."""
    voxels, channels = x[0, 0].numel(), x.shape[1]
    return x.movedim(1, -1).view(x.shape[0], -1, math.gcd(voxels, LONGEST_ROW) * channels)


def _fold(rows: Tensor, channels: int) -> Tensor:
    """Sums per channel of `(B, 1, voxels * C)`, repeated for every voxel of a row."""
    voxels = rows.shape[2] // channels
    return rows.unflatten(2, (voxels, channels)).sum(2).repeat(1, 1, voxels)


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    """Pieces along the rows; on CPUs small ones, so that what is made of them stays in the cache."""
    return rows.split(max(CACHED // rows[:, 0].numel(), 1), 1) if rows.device.type == "cpu" else (rows,)
