"""Deformable convolution on CPUs, forward and backward, by loops that Numba compiles."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from dlka_med.ops.geometry import Geometry

INSTALLED = importlib.util.find_spec("numba") is not None
TILE_BYTES = 2**19


def why_not(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> str | None:
    """The reason why this backend cannot compute `deform_conv` of these arguments, None if it can."""
    if not INSTALLED:
        return "numba is not installed"
    if x.device.type != "cpu":
        return f"expected tensors on the cpu, got {x.device}"
    if geometry.spatial_dims > 3:
        return f"expected at most 3 spatial axes, got {geometry.spatial_dims}"
    if torch.compiler.is_exporting():
        return "an exported graph must not depend on numba"
    if torch.compiler.is_compiling():
        return None
    if math.prod(x.shape[2:]) > torch.iinfo(torch.int32).max:
        return f"expected fewer than 2**31 voxels in an image, got shape {tuple(x.shape)}"
    if torch._C._are_functorch_transforms_active():
        return "it has no rule for the transforms of torch.func"
    tensors = (t for t in (x, offset, weight, bias, mask) if t is not None)
    if any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        return "it has no forward-mode derivative"
    return None


def run(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """The result of `deform_conv`, its memory laid out channels-last; differentiable once."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    offset, weight, bias, mask = (None if t is None else t.to(dtype) for t in (offset, weight, bias, mask))
    rows = x.to(dtype).movedim(1, -1).contiguous()
    axes = (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
    y = forward(rows, offset, weight, bias, mask, *axes, geometry.groups, geometry.offset_groups)
    return y.to(x.dtype).movedim(-1, 1)


@torch.library.custom_op("dlka_med::deform_conv_cpu", mutates_args=(), device_types="cpu")
def forward(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    """`(B, *S, C)` to `(B, *S', O)`, both contiguous; the other tensors as in `deform_conv`, of the same dtype."""
    geometry = geometry_of(kernel_size, stride, padding, dilation, groups, offset_groups)
    problem = Problem(x, offset, weight, mask, geometry)
    y = x.new_empty(x.shape[0], *offset.shape[2:], outputs(x, weight))
    y.zero_() if bias is None else y.copy_(bias.detach())
    parallel(problem.forward, problem.spans(4), y.numpy())
    return y


@forward.register_fake
def _(x, offset, weight, bias, mask, kernel_size, stride, padding, dilation, groups, offset_groups):
    return x.new_empty(x.shape[0], *offset.shape[2:], outputs(x, weight))


@torch.library.custom_op("dlka_med::deform_conv_cpu_backward", mutates_args=(), device_types="cpu")
def backward(
    grad_y: Tensor,
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, offset, weight and mask; those of absent tensors are empty."""
    geometry = geometry_of(kernel_size, stride, padding, dilation, groups, offset_groups)
    problem = Problem(x, offset, weight, mask, geometry)
    return problem.gradients(grad_y.detach().contiguous())


@backward.register_fake
def _(grad_y, x, offset, weight, mask, kernel_size, stride, padding, dilation, groups, offset_groups):
    grad_offset, grad_mask = (
        x.new_empty(0) if t is None else torch.empty_like(with_one_stride(t)).unflatten(2, t.shape[2:])
        for t in (offset, mask)
    )
    return x.new_empty(x.shape), grad_offset, x.new_empty(0 if weight is None else weight.shape), grad_mask


def keep(ctx, inputs, output) -> None:
    """Save what `differentiate` needs."""
    x, offset, weight, bias, mask, *ctx.settings = inputs
    ctx.save_for_backward(x, offset, weight, mask)
    ctx.biased = bias is not None


def differentiate(ctx, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs of `forward`."""
    x, offset, weight, mask = ctx.saved_tensors
    grad_x, grad_offset, grad_weight, grad_mask = backward(grad_y, x, offset, weight, mask, *ctx.settings)
    grad_weight = None if weight is None else grad_weight
    grad_mask = None if mask is None else grad_mask
    grad_bias = grad_y.flatten(0, -2).sum(0) if ctx.biased else None
    return grad_x, grad_offset, grad_weight, grad_bias, grad_mask, *[None] * len(ctx.settings)


def refuse(ctx, *gradients: Tensor) -> None:
    """Say that there is no second derivative."""
    raise NotImplementedError("deform_conv: expected one backward pass, got a second derivative, which it has not")


forward.register_autograd(differentiate, setup_context=keep)
backward.register_autograd(refuse)


def geometry_of(*settings: list[int] | int) -> Geometry:
    """The record, from the arguments of an operator."""
    *axes, groups, offset_groups = settings
    return Geometry.of(len(axes[0]), *map(tuple, axes), groups, offset_groups)


def outputs(x: Tensor, weight: Tensor | None) -> int:
    """Channels of the result."""
    return x.shape[-1] if weight is None else weight.shape[0]


class Problem:
    """One call: its tensors as the kernels read them.

    Depthwise convolutions, and sums without a weight, whose every weight is one, need no columns. All others
    fill a tile of columns `(positions, points, channels)` and leave it to a matrix product.
    """

    def __init__(
        self, x: Tensor, offset: Tensor, weight: Tensor | None, mask: Tensor | None, geometry: Geometry
    ) -> None:
        x, offset, weight, mask = (None if t is None else t.detach() for t in (x, offset, weight, mask))
        batch, *size, channels = x.shape
        self.out = offset.shape[2:]
        self.batch, self.channels, self.outputs = batch, channels, outputs(x, weight)
        self.x, self.offset, self.mask = x, with_one_stride(offset), with_one_stride(mask)
        self.weight, self.groups, self.points = weight, geometry.groups, geometry.points
        self.positions = self.offset.shape[-1]
        self.kernels = importlib.import_module("dlka_med.ops.backends.numba_kernels")
        lead = (1,) * (3 - len(size))
        self.grid = self.kernels.Grid(
            geometry.spatial_dims,
            (*lead, *size),
            (*lead, *self.out),
            lead + geometry.kernel_size,
            lead + geometry.stride,
            (0,) * len(lead) + geometry.padding,
            lead + geometry.dilation,
            geometry.offset_groups,
            channels,
        )
        self.depthwise = weight is None or geometry.groups == channels == self.outputs
        if weight is None:
            self.table = x.new_ones(self.points, channels).numpy()
        elif self.depthwise:
            self.table = weight.reshape(channels, -1).T.contiguous().numpy()
        else:
            parts = weight.reshape(self.groups, self.outputs // self.groups, -1, self.points)
            self.table = parts.permute(0, 3, 2, 1).flatten(1, 2).contiguous().numpy()
        self.tile = max(TILE_BYTES // (self.points * channels * x.element_size()), 1)

    def spans(self, per_thread: int) -> list[tuple[int, int, int, int]]:
        """The work as `(part, image, first position, last position)`, every image in equally many parts."""
        parts = -(-per_thread * torch.get_num_threads() // max(self.batch, 1))
        size = max(-(-self.positions // parts), self.kernels.BLOCK)
        return [
            (part, image, first, min(first + size, self.positions))
            for image in range(self.batch)
            for part, first in enumerate(range(0, self.positions, size))
        ]

    def reads(self, image: int) -> tuple:
        """One image's voxels, offsets and mask."""
        voxels = self.x[image].reshape(-1).numpy()
        return voxels, self.strided(self.offset, image), self.strided(self.mask, image)

    def strided(self, tensor: Tensor | None, image: int) -> tuple:
        """One image of `tensor` `(B, channels, positions)`."""
        if tensor is None or tensor.numel() == 0:
            return self.kernels.Strided(np.empty(0, self.x.numpy().dtype), 0, 0, 0)
        batch, channel, position = tensor.stride()
        span = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        values = tensor.as_strided((span,), (1,)).numpy()
        return self.kernels.Strided(values, image * batch, channel, position)

    def tiles(self, first: int, last: int) -> Iterable[tuple[int, int]]:
        """The positions from `first` to `last`, as many at a time as a tile of columns holds."""
        return ((start, min(start + self.tile, last)) for start in range(first, last, self.tile))

    def by_groups(self, columns: np.ndarray, count: int) -> Tensor:
        """Columns of `count` positions as `(groups, positions, points * channels / groups)`."""
        parts = torch.from_numpy(columns)[: count * self.points * self.channels]
        parts = parts.reshape(count, self.points, self.groups, -1).permute(2, 0, 1, 3)
        return parts.reshape(self.groups, count, -1)

    def new_columns(self, first: int, last: int) -> np.ndarray:
        """Memory for a tile of columns."""
        return np.empty(min(self.tile, last - first) * self.points * self.channels, self.table.dtype)

    def forward(self, y: np.ndarray, _: int, image: int, first: int, last: int) -> None:
        """Add the result at some positions of one image to `y`."""
        y = y[image].reshape(-1, self.outputs)
        if self.depthwise:
            table = self.table.reshape(-1)
            self.kernels.weighted_sum(self.grid, *self.reads(image), table, first, last, y.reshape(-1))
            return
        columns, ones = self.new_columns(first, last), np.ones(self.channels, self.table.dtype)
        table = torch.from_numpy(self.table)
        for start, end in self.tiles(first, last):
            self.kernels.fill_columns(self.grid, *self.reads(image), ones, start, end, columns)
            into = torch.from_numpy(y[start:end]).unflatten(1, (self.groups, -1)).transpose(0, 1)
            into.baddbmm_(self.by_groups(columns, end - start), table)

    def gradients(self, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of x, offset, weight and mask; those of absent tensors are empty.

        Parts of one image that are worked on at the same time have each their own gradient of x, and every
        part its own gradient of the weight; they are added in a fixed order.
        """
        spans = self.spans(1)
        parts = 1 + max((part for part, *_ in spans), default=0)
        grad_x = self.x.new_zeros(parts, *self.x.shape)
        tables = self.x.new_zeros(len(spans), *self.table.shape)
        grad_offset = torch.empty_like(self.offset)
        grad_mask = None if self.mask is None else torch.empty_like(self.mask)
        numbered = [(number, *span) for number, span in enumerate(spans)]
        parallel(self.backward, numbered, grad_y, grad_x, grad_offset, grad_mask, tables)
        grad_x = grad_x[0] if parts == 1 else grad_x.sum(0)
        grad_mask = self.x.new_empty(0) if grad_mask is None else grad_mask.unflatten(2, self.out)
        return grad_x, grad_offset.unflatten(2, self.out), self.grad_weight(tables.sum(0)), grad_mask

    def grad_weight(self, table: Tensor) -> Tensor:
        """The gradient of `table` in the layout of the weight."""
        if self.weight is None:
            return table.new_empty(0)
        parts = table.T if self.depthwise else table.unflatten(1, (self.points, -1)).permute(0, 3, 2, 1)
        return self.weight.new_empty(self.weight.shape).copy_(parts.reshape(self.weight.shape))

    def backward(
        self,
        grad_y: Tensor,
        grad_x: Tensor,
        grad_offset: Tensor,
        grad_mask: Tensor | None,
        tables: Tensor,
        number: int,
        part: int,
        image: int,
        first: int,
        last: int,
    ) -> None:
        """Gradients from some positions of one image."""
        given = grad_y[image].reshape(-1, self.outputs)
        into = grad_x[part, image].reshape(-1).numpy()
        into = into, self.strided(grad_offset, image), self.strided(grad_mask, image)
        reads = self.reads(image)
        if self.depthwise:
            weight, grad_weight = self.table.reshape(-1), tables[number].reshape(-1).numpy()
            given = given.reshape(-1).numpy()
            self.kernels.weighted_sum_backward(self.grid, *reads, weight, given, first, last, *into, grad_weight)
            return
        columns, table = self.new_columns(first, last), torch.from_numpy(self.table)
        for start, end in self.tiles(first, last):
            above = given[start:end].unflatten(1, (self.groups, -1)).transpose(0, 1)
            below = (above @ table.mT).unflatten(2, (self.points, -1)).permute(1, 2, 0, 3).reshape(-1).numpy()
            self.kernels.columns_backward(self.grid, *reads, below, start, end, *into, columns)
            tables[number].baddbmm_(self.by_groups(columns, end - start).mT, above)


def with_one_stride(tensor: Tensor | None) -> Tensor | None:
    """`tensor` `(B, channels, *S')` as `(B, channels, positions)`, copied only where no single stride leads through."""
    return None if tensor is None else tensor.flatten(2)


def parallel(work: Callable, spans: list[tuple], *arguments: object) -> None:
    """Call `work(*arguments, *span)` for every span, on as many threads as torch uses."""
    threads = torch.get_num_threads()
    if threads == 1 or len(spans) == 1:
        for span in spans:
            work(*arguments, *span)
        return
    for done in [pool(threads).submit(work, *arguments, *span) for span in spans]:
        done.result()


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads on which torch itself stays single-threaded.

    `torch.set_num_threads` sets the calling thread, and the default of threads to come; the latter is put back.
    """
    ready = Barrier(threads)
    executor = ThreadPoolExecutor(threads, "deform_conv", torch.set_num_threads, (1,))
    for done in [executor.submit(ready.wait) for _ in range(threads)]:
        done.result()
    torch.set_num_threads(threads)
    return executor


os.register_at_fork(after_in_child=pool.cache_clear)
