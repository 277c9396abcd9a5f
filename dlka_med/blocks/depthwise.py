"""Depthwise convolution with large and dilated kernels, made fast on CPUs.

torch hands a depthwise 3D convolution to oneDNN, which is fast in one case only: the forward pass without
dilation. Everything else can be written as that case, exactly:

- a dilated convolution is the undilated one of each of the `dilation ** d` subsampled images,
- the gradient of the input is a convolution with the mirrored kernel,
- the gradient of the weight is a convolution of every image and channel with its output gradient as kernel.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.blocks.dims import channels_last, check_spatial_dims

CONV = {2: F.conv2d, 3: F.conv3d}


class DepthwiseConv(nn.Module):
    """Convolution of each channel by itself, stride 1, output as large as the input.

    x `(B, channels, *S)` -> the same shape. Weight `(channels, 1, *kernel)` and start values are those of
    `torch.nn.Conv2d` and `Conv3d` with `groups=channels`.

    Raises:
        ValueError: if `spatial_dims` is not 2 or 3, or `kernel_size` is even.
    """

    def __init__(
        self, spatial_dims: int, channels: int, kernel_size: int, *, dilation: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(channels, 1, *[kernel_size] * spatial_dims))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform start values, as `torch.nn.Conv3d` has them."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # In bfloat16 the weight's gradient of small maps holds memory that oneDNN never wrote.
            with torch.autocast("cpu", enabled=False):
                return self.forward(x.to(self.weight.dtype)).to(torch.get_autocast_dtype("cpu"))
        if not _fast_on_cpu(x, self.weight):
            return _conv(x, self.weight, self.bias, self.dilation)
        if self.dilation == 1:
            return _FastDepthwise.apply(x, self.weight, self.bias)
        images = _subsampled(x, self.dilation)
        y = _FastDepthwise.apply(images, self.weight, self.bias)
        return _interleaved(y, self.dilation, x.shape)

    def extra_repr(self) -> str:
        """Channels, kernel and dilation, for `print`."""
        shape = tuple(self.weight.shape)
        return f"{shape[0]}, kernel_size={shape[2:]}, dilation={self.dilation}, bias={self.bias is not None}"


class _FastDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _conv(channels_last(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        spatial = tuple(range(2, x.ndim))
        grad = channels_last(grad)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _conv(grad, weight.flip(spatial))
        if ctx.needs_input_grad[1]:
            batch, channels = x.shape[:2]
            padding = [size // 2 for size in weight.shape[2:]]
            images, kernels = _images_as_channels(x)[None], _images_as_channels(grad)[:, None]
            products = CONV[len(spatial)](images, kernels, padding=padding, groups=batch * channels)
            grad_weight = products.view(batch, channels, *weight.shape[2:]).sum(0)[:, None]
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, *spatial))
        return grad_x, grad_weight, grad_bias


def _fast_on_cpu(x: Tensor, weight: Tensor) -> bool:
    return (
        x.ndim == 5
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        and torch.backends.mkldnn.is_available()
        and not torch.compiler.is_compiling()
    )


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    padding = [dilation * (size // 2) for size in weight.shape[2:]]
    return CONV[x.ndim - 2](x, weight, bias, padding=padding, dilation=dilation, groups=weight.shape[0])


def _images_as_channels(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B * C, *S) with the images and channels innermost in memory."""
    return x.movedim((0, 1), (-2, -1)).flatten(-2).movedim(-1, 0)


def _subsampled(x: Tensor, step: int) -> Tensor:
    """(B, C, *S) -> (B * step ** d, C, *ceil(S / step)): every step-th voxel, from each start on."""
    dims = x.ndim - 2
    pads = [-size % step for size in x.shape[2:]]
    if any(pads):
        x = F.pad(x, [n for pad in reversed(pads) for n in (0, pad)])
    split = [n for size in x.shape[2:] for n in (size // step, step)]
    starts, places = range(2, 2 * dims + 1, 2), range(1, 2 * dims, 2)
    x = x.movedim(1, -1).reshape(x.shape[0], *split, -1)
    return x.permute(0, *starts, *places, -1).flatten(0, dims).movedim(-1, 1)


def _interleaved(y: Tensor, step: int, shape: torch.Size) -> Tensor:
    """The inverse of `_subsampled` for an image of this shape."""
    dims = y.ndim - 2
    order = [axis for d in range(dims) for axis in (1 + dims + d, 1 + d)]
    y = y.movedim(1, -1).unflatten(0, (-1, *[step] * dims)).permute(0, *order, -1)
    for axis, size in enumerate(shape[2:], start=1):
        y = y.flatten(axis, axis + 1).narrow(axis, 0, size)
    return channels_last(y.movedim(-1, 1))
