"""Norms that leave channels-last tensors as they are in memory."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dlka_med.blocks.dims import check_choice, check_spatial_dims

Norm = Literal["batch", "instance"]
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

    On a CPU `F.instance_norm` copies channels-last tensors to channels-first ones and answers so, and the
    variance of torch is slow there: hence the formula itself.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
            return F.instance_norm(x, eps=self.eps)
        return _CPUInstanceNorm.apply(x, self.eps)


class _CPUInstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        centred = x - _mean(x)
        scale = torch.rsqrt(_mean(centred.square()) + eps)
        ctx.save_for_backward(centred, scale)
        return centred * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        centred, scale = ctx.saved_tensors
        slope = _mean(grad * centred) * scale.square()
        return torch.addcmul(grad - _mean(grad), centred, slope, value=-1).mul_(scale), None


def _mean(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)
