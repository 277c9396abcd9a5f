"""Plain convolution by whichever way is fastest; with none of them, torch's own.

On a CPU torch leaves much of oneDNN's speed unused. What is done about it here changes no result beyond rounding:

- A single image of few voxels is convolved by a slow way of torch's own, and the gradient of a weight with few
  channels runs on one thread only. Here oneDNN is called whatever the size, and the gradient of the weight is that
  of two halves of the image.
- A volume's convolution of single voxels is the product of two matrices; torch's own takes several times as long, and
  gives gradients whose channels are not last, which slows down all that comes behind it.
- A depthwise convolution is fast without dilation, in 3D its forward pass only. Everything else is written as that
  case. A dilated convolution is the undilated one of each of the `dilation ** d` subsampled images; the gradient of
  the input is a convolution with the mirrored kernel; the gradient of the weight is a convolution of every image and
  channel with its output gradient as kernel. What of a kernel reaches beyond a small image from each of its voxels is
  left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dlka_med.ops.layout import channels_last
from dlka_med.ops.onednn import CONV, convolve
from dlka_med.ops.precision import autocast_off
from dlka_med.ops.tracing import why_not_traced

FEW_VOXELS = 256
FEW_VOXELS_3X3X3 = 128  # a kernel of 3 x 3 x 3 has work enough for oneDNN earlier
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
        with autocast_off("cpu"):
            y = conv(x.to(weight.dtype), weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
        return y.to(torch.get_autocast_dtype("cpu"))
    if _onednn_applies(x, weight, groups) and set(stride) == {1}:
        if x.ndim == 5 and groups == 1 and math.prod(weight.shape[2:]) == 1 and not any(padding):
            return _pointwise(x, weight, bias)
        if depthwise and _keeps_size(weight, padding, dilation):
            return _depthwise(x, weight, bias, dilation[0])
        if groups == 1 and set(dilation) == {1} and _is_single_image(x, weight, padding):
            return convolve(x, weight, bias, padding, 1)
    return CONV[x.ndim - 2](x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)


def _onednn_applies(x: Tensor, weight: Tensor, groups: int) -> bool:
    return (
        ONEDNN
        and x.ndim in (4, 5)
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.shape[1] == groups * weight.shape[1]
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and why_not_traced("oneDNN", (x, weight)) is None
    )


def _keeps_size(weight: Tensor, padding: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether the output is as large as the input, the kernel has a middle, and all axes have one dilation."""
    sizes, odd = weight.shape[2:], all(size % 2 for size in weight.shape[2:])
    reach = [step * (size - 1) for size, step in zip(sizes, dilation, strict=True)]
    return odd and len(set(dilation)) == 1 and [2 * pad for pad in padding] == reach


def _is_single_image(x: Tensor, weight: Tensor, padding: Sequence[int]) -> bool:
    """Whether x is one, not too small to be worth it, and no voxel of the output sees zeros alone."""
    axes = zip(x.shape[2:], weight.shape[2:], padding, strict=True)
    fits = all(own < size <= extent + 2 * own for extent, size, own in axes)
    few = FEW_VOXELS_3X3X3 if weight.shape[2:] == (3, 3, 3) else FEW_VOXELS
    return fits and x.shape[0] == 1 and math.prod(x.shape[2:]) >= few


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(channels_last(x).movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    images = channels_last(x if dilation == 1 else _subsampled(x, dilation))
    weight = _within(weight, images.shape[2:])
    padding = tuple(size // 2 for size in weight.shape[2:])
    if x.ndim == 4:
        y = F.conv2d(images, weight, bias, padding=padding, groups=weight.shape[0])
    else:
        y = convolve(images, weight, bias, padding, weight.shape[0])
    return y if dilation == 1 else _interleaved(y, dilation, x.shape)


def _within(weight: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of a kernel: what of it can meet two voxels of an image of this size."""
    for axis, extent in enumerate(size, start=2):
        own = weight.shape[axis] // 2
        reach = min(own, extent - 1)
        weight = weight.narrow(axis, own - reach, 2 * reach + 1)
    return weight


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
