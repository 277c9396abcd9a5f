"""Plain convolution by whichever way is fastest; with none of them, torch's own.

On a CPU torch leaves much of oneDNN's speed unused. What is done about it here changes no result beyond rounding:

- A single image of few voxels is convolved by a slow way of torch's own, and the gradient of a weight with few
  channels runs on one thread only. Here oneDNN is called whatever the size, and the gradient of the weight is that
  of two halves of the image.
- A depthwise convolution is fast without dilation, in 3D its forward pass only. Everything else is written as that
  case. A dilated convolution is the undilated one of each of the `dilation ** d` subsampled images; the gradient of
  the input is a convolution with the mirrored kernel; the gradient of the weight is a convolution of every image and
  channel with its output gradient as kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dlka_med.ops.layout import channels_last
from dlka_med.ops.tracing import why_not_traced

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
FEW_VOXELS = 256
ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """Convolution as `torch.nn.functional.conv1d` to `conv3d`, one entry per axis in `stride` and so on.

    Under autocast on a CPU depthwise convolutions stay in the weight's precision: in bfloat16 the weight's gradient
    of small maps would hold memory that oneDNN never wrote.

    Args:
        x: `(B, C, *S)`.
        weight: `(O, C / groups, *kernel)`.
        bias: `(O,)`.

    Returns:
        `(B, O, *S')`; channels-last in memory where x is or where a way of our own was taken.
    """
    depthwise = groups > 1 and groups == x.shape[1] == weight.shape[0]
    if depthwise and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            y = conv(x.to(weight.dtype), weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
        return y.to(torch.get_autocast_dtype("cpu"))
    if _onednn_applies(x, weight, groups) and set(stride) == {1}:
        if depthwise and _keeps_size(weight, padding, dilation):
            return _depthwise(x, weight, bias, dilation[0])
        if groups == 1 and set(dilation) == {1} and _is_single_image(x, weight, padding):
            return _SingleImage.apply(x, weight, bias, list(padding))
    return CONV[x.ndim - 2](x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)


def _onednn_applies(x: Tensor, weight: Tensor, groups: int) -> bool:
    return (
        not torch.compiler.is_compiling()
        and ONEDNN
        and x.ndim in (4, 5)
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.shape[1] == groups * weight.shape[1]
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and why_not_traced("oneDNN", (x, weight)) is None
    )


class _SingleImage(torch.autograd.Function):
    """Stride and dilation 1, one group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return _onednn(channels_last(x), weight, bias, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        grad_x = grad_weight = None
        grad = channels_last(grad)
        if of_x:
            spatial = tuple(range(2, x.ndim))
            padding = [size - 1 - own for size, own in zip(weight.shape[2:], ctx.padding, strict=True)]
            grad_x = _onednn(grad, weight.flip(spatial).transpose(0, 1), None, padding)
        if of_weight:
            images, grads = _halves(channels_last(x), ctx.padding[0], weight.shape[2] - 1), _halves(grad, 0, 0)
            grad_weight = _grad_weight(images, grads, weight, [0, *ctx.padding[1:]])
        return grad_x, grad_weight, grad.sum((0, *range(2, grad.ndim))) if of_bias else None, None


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    ones = [1] * len(padding)
    return torch.ops.aten.mkldnn_convolution(x, weight, bias, padding, ones, ones, 1)


def _grad_weight(x: Tensor, grad: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
    """As torch has it for a batch of images."""
    ones, none, wanted = [1] * len(padding), [0] * len(padding), [False, True, False]
    return torch.ops.aten.convolution_backward(grad, x, weight, None, ones, padding, ones, False, none, 1, wanted)[1]


def _halves(image: Tensor, padding: int, reach: int) -> Tensor:
    """(1, C, n, ...) -> (2, C, about n / 2 + reach, ...): what the two halves of a convolution's output read.

    The convolution's kernel spans `1 + reach` voxels along the axis, whose borders are padded with zeros.
    """
    size = image.shape[2]
    half = -(-(size + 2 * padding - reach) // 2)
    if reach == 0 and padding == 0 and size == 2 * half:
        return image.movedim(1, -1).unflatten(1, (2, half)).flatten(0, 1).movedim(-1, 1)
    halves = image.new_zeros(2, half + reach, *image.shape[3:], image.shape[1]).movedim(-1, 1)
    for number in range(2):
        first = number * half - padding
        start, end = max(first, 0), min(first + half + reach, size)
        halves[number, :, start - first : end - first] = image[0, :, start:end]
    return halves


def _keeps_size(weight: Tensor, padding: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether the output is as large as the input, with one dilation for all axes."""
    sizes = [step * (size - 1) for size, step in zip(weight.shape[2:], dilation, strict=True)]
    return len(set(dilation)) == 1 and [2 * pad for pad in padding] == sizes


def _is_single_image(x: Tensor, weight: Tensor, padding: Sequence[int]) -> bool:
    """Whether x is one, not too small to be worth it, and no voxel of the output sees zeros alone."""
    axes = zip(x.shape[2:], weight.shape[2:], padding, strict=True)
    fits = all(own < size <= extent + 2 * own for extent, size, own in axes)
    return fits and x.shape[0] == 1 and math.prod(x.shape[2:]) >= FEW_VOXELS


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    images = x if dilation == 1 else _subsampled(x, dilation)
    y = _same(channels_last(images), weight, bias) if x.ndim == 4 else _Depthwise.apply(images, weight, bias)
    return y if dilation == 1 else _interleaved(y, dilation, x.shape)


class _Depthwise(torch.autograd.Function):
    """3D, no dilation; the output is as large as the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _same(channels_last(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        spatial = tuple(range(2, x.ndim))
        grad = channels_last(grad)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _same(grad, weight.flip(spatial), None)
        if ctx.needs_input_grad[1]:
            batch, channels = x.shape[:2]
            images, kernels = _images_as_channels(x)[None], _images_as_channels(grad)[:, None]
            padding = [size // 2 for size in weight.shape[2:]]
            products = CONV[len(spatial)](images, kernels, padding=padding, groups=batch * channels)
            grad_weight = products.view(batch, channels, *weight.shape[2:]).sum(0)[:, None]
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, *spatial))
        return grad_x, grad_weight, grad_bias


def _same(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padding = [size // 2 for size in weight.shape[2:]]
    return CONV[x.ndim - 2](x, weight, bias, padding=padding, groups=weight.shape[0])


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
