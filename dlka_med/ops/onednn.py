"""Two convolutions that oneDNN does faster than torch asks it to, with gradients: eagerly, and as one node of a graph.

`convolve` is either of one image, or depthwise in 3D with an output as large as the input; stride and dilation are 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dlka_med.ops.layout import CHANNELS_LAST, channels_last
from dlka_med.ops.precision import autocast_off
from dlka_med.ops.tracing import applied

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int], groups: int) -> Tensor:
    """`(B, C, *S)` to `(B, O, *S')`, channels-last; `groups` is 1 (and `B` too) or `C`."""
    arguments = (x, weight, bias, list(padding), groups)
    return in_graph(*arguments) if torch.compiler.is_compiling() else applied(Convolution, *arguments)


class Convolution(torch.autograd.Function):
    """May be differentiated twice, being made of operations of torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int], groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = padding, groups
        return result(x, weight, bias, padding, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *gradients(grad, *ctx.saved_tensors, *ctx.settings, ctx.needs_input_grad), None, None


@torch.library.custom_op("dlka_med::conv_onednn", mutates_args=(), device_types="cpu")
def in_graph(x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int], groups: int) -> Tensor:
    """What `torch.compile` keeps as it is: torch's own convolution would be put in its place, on slower ways."""
    return result(x, weight, bias, padding, groups)


@in_graph.register_fake
def _(x, weight, bias, padding, groups):
    axes = zip(x.shape[2:], weight.shape[2:], padding, strict=True)
    size = [extent + 2 * own - kernel + 1 for extent, kernel, own in axes]
    return empty(x, (x.shape[0], weight.shape[0], *size))


@torch.library.custom_op("dlka_med::conv_onednn_backward", mutates_args=(), device_types="cpu")
def backward_in_graph(
    grad: Tensor, x: Tensor, weight: Tensor, padding: list[int], groups: int, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; empty where not wanted."""
    found = gradients(grad, x, weight, padding, groups, wanted)
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in found)


@backward_in_graph.register_fake
def _(grad, x, weight, padding, groups, wanted):
    return (
        empty(x, x.shape) if wanted[0] else x.new_empty(0),
        x.new_empty(weight.shape if wanted[1] else 0),
        x.new_empty(weight.shape[0] if wanted[2] else 0),
    )


def keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    """Save what `differentiate` needs."""
    x, weight, _, *ctx.settings = inputs
    ctx.save_for_backward(x, weight)


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs of `in_graph`."""
    wanted = list(ctx.needs_input_grad[:3])
    found = backward_in_graph(grad, *ctx.saved_tensors, *ctx.settings, wanted)
    return *(g if w else None for g, w in zip(found, wanted, strict=True)), None, None


in_graph.register_autograd(differentiate, setup_context=keep)


def empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Memory, channels-last."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=CHANNELS_LAST[like.ndim])


def result(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int], groups: int) -> Tensor:
    """The convolution, channels-last."""
    ones = [1] * len(padding)
    y = torch.ops.aten.mkldnn_convolution(channels_last(x), weight, bias, padding, ones, ones, groups)
    return channels_last(y)


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, padding: Sequence[int], groups: int, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias; None where not wanted."""
    grad, spatial = channels_last(grad), tuple(range(2, x.ndim))
    grad_x = grad_weight = None
    with autocast_off("cpu"):
        if wanted[0]:
            mirrored = weight.flip(spatial) if groups > 1 else weight.flip(spatial).transpose(0, 1)
            reach = [size - 1 - own for size, own in zip(weight.shape[2:], padding, strict=True)]
            grad_x = result(grad, mirrored, None, reach, groups)
        if wanted[1]:
            of_weight = grad_weight_depthwise if groups > 1 else grad_weight_single
            grad_weight = of_weight(grad, x, weight, padding).contiguous()
        return grad_x, grad_weight, grad.sum((0, *spatial)) if wanted[2] else None


def grad_weight_depthwise(grad: Tensor, x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """A convolution of every image and channel with its output gradient as kernel."""
    batch, channels = x.shape[:2]
    images, kernels = images_as_channels(x)[None], images_as_channels(grad)[:, None]
    products = CONV[x.ndim - 2](images, kernels, padding=tuple(padding), groups=batch * channels)
    return products.view(batch, channels, *weight.shape[2:]).sum(0)[:, None]


def images_as_channels(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B * C, *S) with the images and channels innermost in memory."""
    return x.movedim((0, 1), (-2, -1)).flatten(-2).movedim(-1, 0)


def grad_weight_single(grad: Tensor, x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """That of the two halves of the image, as torch has it for a batch of images."""
    images, grads = halves(channels_last(x), padding[0], weight.shape[2] - 1), halves(grad, 0, 0)
    padding = [0, *padding[1:]]
    ones, none, wanted = [1] * len(padding), [0] * len(padding), [False, True, False]
    return torch.ops.aten.convolution_backward(
        grads, images, weight, None, ones, padding, ones, False, none, 1, wanted
    )[1]


def halves(image: Tensor, padding: int, reach: int) -> Tensor:
    """(1, C, n, ...) -> (2, C, about n / 2 + reach, ...): what the two halves of a convolution's output read.

    The convolution's kernel spans `1 + reach` voxels along the axis, whose borders are padded with zeros.
    """
    size = image.shape[2]
    half = -(-(size + 2 * padding - reach) // 2)
    if reach == 0 and padding == 0 and size == 2 * half:
        return image.movedim(1, -1).unflatten(1, (2, half)).flatten(0, 1).movedim(-1, 1)
    pair = image.new_zeros(2, half + reach, *image.shape[3:], image.shape[1]).movedim(-1, 1)
    for number in range(2):
        first = number * half - padding
        start, end = max(first, 0), min(first + half + reach, size)
        pair[number, :, start - first : end - first] = image[0, :, start:end]
    return pair
