"""Norms that leave channels-last tensors as they are in memory."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dlka_med.blocks.dims import check_choice, check_spatial_dims
from dlka_med.ops.layout import channels_last
from dlka_med.ops.tracing import why_not_traced

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

    `F.instance_norm` would copy channels-last tensors and answer channels-first; and its gradient is wrong on CPUs
    where a batch of one image gets a channels-last gradient (torch 2.14).
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or why_not_traced("this way", (x,)) is not None:
            return F.instance_norm(x, eps=self.eps)
        return _InstanceNorm.apply(x, self.eps)


class _InstanceNorm(torch.autograd.Function):
    """Computed on rows of many voxels each: torch is slow at short ones, which the channels alone would be."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        voxels, channels = x[0, 0].numel(), x.shape[1]
        x = channels_last(x)
        rows = _rows(x)
        mean = _fold(rows.sum(1, keepdim=True), channels) / voxels
        squares = sum((part - mean).square().sum(1, keepdim=True) for part in _parts(rows))
        scale = torch.rsqrt(_fold(squares, channels) / voxels + eps)
        ctx.save_for_backward(x, mean, scale)
        y = torch.empty_like(x)
        torch.addcmul(-mean * scale, rows, scale, out=_rows(y))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, mean, scale = ctx.saved_tensors
        voxels, channels = x[0, 0].numel(), x.shape[1]
        rows, above = _rows(x), _rows(channels_last(grad))
        pairs = list(zip(_parts(rows), _parts(above), strict=True))
        products = sum(((part - mean) * given).sum(1, keepdim=True) for part, given in pairs)
        slope = _fold(products, channels) / voxels * scale.square()
        shift = mean * slope - _fold(above.sum(1, keepdim=True), channels) / voxels
        grad_x = torch.empty_like(x)
        for into, (part, given) in zip(_parts(_rows(grad_x)), pairs, strict=True):
            torch.addcmul(given + shift, part, slope, value=-1, out=into)
            into.mul_(scale)
        return grad_x, None


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
