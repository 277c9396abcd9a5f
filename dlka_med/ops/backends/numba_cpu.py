"""Deformable convolution on CPUs, forward and backward, by loops that Numba compiles."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from dlka_med.ops.backends.numba_threads import parallel
from dlka_med.ops.backends.registration import geometry_of, outputs, refuse_second_derivative
from dlka_med.ops.geometry import Geometry
from dlka_med.ops.tracing import why_not_traced

INSTALLED = importlib.util.find_spec("numba") is not None
TILE_BYTES = 2**20
# Offsets and mask in bfloat16 are read as they are, the loops computing in float32.
READABLE = {torch.bfloat16, torch.float32}


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
    if not torch.compiler.is_compiling() and math.prod(x.shape[1:]) >= 2**32 - 1:
        return f"expected fewer than 2**32 - 1 numbers in an image, got shape {tuple(x.shape)}"
    return why_not_traced("numba", (t for t in (x, offset, weight, bias, mask) if t is not None))


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
    weight, bias = (None if t is None else t.to(dtype) for t in (weight, bias))
    offset, mask = (t if t is None or {t.dtype, dtype} == READABLE else t.to(dtype) for t in (offset, mask))
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
    """`(B, *S, C)` to `(B, *S', O)`, both contiguous; the other tensors as in `deform_conv`, of the same dtype.

    With float32 the offset and the mask may be bfloat16.
    """
    geometry = geometry_of(kernel_size, stride, padding, dilation, groups, offset_groups)
    problem = Problem(x, offset, weight, mask, geometry)
    y = x.new_empty(x.shape[0], *offset.shape[2:], outputs(x, weight))
    y.zero_() if bias is None else y.copy_(bias.detach())
    pieces = problem.pieces(2 * torch.get_num_threads())
    parallel(lambda spans: [problem.forward(y, *span) for span in spans], pieces)
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


forward.register_autograd(differentiate, setup_context=keep)
backward.register_autograd(refuse_second_derivative)


class Problem:
    """One call: its tensors as the kernels read them.

    Depthwise convolutions, and sums without a weight, whose every weight is one, need no columns. All others
    fill a tile of columns `(positions, points, channels)` and leave it to a matrix product; the tiles of all
    threads together are no larger than the tensors of the call.
    """

    def __init__(
        self, x: Tensor, offset: Tensor, weight: Tensor | None, mask: Tensor | None, geometry: Geometry
    ) -> None:
        x, offset, weight, mask = (None if t is None else t.detach() for t in (x, offset, weight, mask))
        self.kernels = importlib.import_module("dlka_med.ops.backends.numba_kernels")
        self.batch, *size, self.channels = x.shape
        self.outputs, self.groups, self.points = outputs(x, weight), geometry.groups, geometry.points
        self.x, self.offset, self.mask, self.weight = x, with_one_stride(offset), with_one_stride(mask), weight
        self.out, self.positions = offset.shape[2:], self.offset.shape[-1]
        self.grid = self.kernels.Grid.of(geometry, size, self.out, self.channels)
        self.depthwise = weight is None or geometry.groups == self.channels == self.outputs
        if weight is None:
            self.table = x.new_ones(self.points, self.channels)
        elif self.depthwise:
            self.table = weight.reshape(self.channels, -1).T.contiguous()
        else:
            parts = weight.reshape(self.groups, self.outputs // self.groups, -1, self.points)
            self.table = parts.permute(0, 3, 2, 1).flatten(1, 2).contiguous()
        numbers = x.numel() + offset.numel() + self.table.numel() + self.batch * self.positions * self.outputs
        room = min(TILE_BYTES, numbers * x.element_size() // torch.get_num_threads())
        self.tile = max(room // (self.points * self.channels * x.element_size()), 1)

    def pieces(self, number: int) -> list[list[tuple[int, int, int]]]:
        """The work in about equal pieces, each a list of `(image, first position, last position)`."""
        total, block = self.batch * self.positions, self.kernels.BLOCK
        size = max(-(-total // (number * block)), 1) * block
        return [list(self.spans(start, min(start + size, total))) for start in range(0, total, size)]

    def spans(self, start: int, end: int) -> Iterable[tuple[int, int, int]]:
        """The places from `start` to `end` of the whole batch, image by image."""
        while start < end:
            image, first = divmod(start, self.positions)
            last = min(self.positions, first + end - start)
            yield image, first, last
            start += last - first

    def reads(self, image: int) -> tuple:
        """One image's voxels, offsets and mask."""
        return flat(self.x[image]), self.strided(self.offset, image), self.strided(self.mask, image)

    def strided(self, tensor: Tensor | None, image: int) -> tuple:
        """One image of `tensor` `(B, channels, positions)`."""
        if tensor is None or tensor.numel() == 0:
            return self.kernels.Strided(np.empty(0, self.x.numpy().dtype), 0, 0, 0)
        batch, channel, position = tensor.stride()
        span = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        values = tensor.as_strided((span,), (1,))
        values = values.view(torch.uint16) if values.dtype == torch.bfloat16 else values
        return self.kernels.Strided(values.numpy(), image * batch, channel, position)

    def tiles(self, first: int, last: int) -> Iterable[tuple[int, int]]:
        """The positions from `first` to `last`, as many at a time as a tile of columns holds."""
        return ((start, min(start + self.tile, last)) for start in range(first, last, self.tile))

    def new_columns(self, first: int, last: int) -> Tensor:
        """Memory for a tile of columns."""
        return self.x.new_empty(min(self.tile, last - first), self.points, self.channels)

    def by_groups(self, columns: Tensor) -> Tensor:
        """Columns as `(groups, positions, points * channels / groups)`."""
        return columns.unflatten(2, (self.groups, -1)).permute(2, 0, 1, 3).flatten(2)

    def forward(self, y: Tensor, image: int, first: int, last: int) -> None:
        """Add the result at some positions of one image to `y`."""
        reads, y = self.reads(image), y[image].flatten(0, -2)
        if self.depthwise:
            self.kernels.forward(self.grid, *reads, flat(self.table), first, last, flat(y))
            return
        columns = self.new_columns(first, last)
        for start, end in self.tiles(first, last):
            self.kernels.forward(self.grid, *reads, None, start, end, flat(columns))
            into = y[start:end].unflatten(1, (self.groups, -1)).transpose(0, 1)
            into.baddbmm_(self.by_groups(columns[: end - start]), self.table)

    def gradients(self, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of x, offset, weight and mask; those of absent tensors are empty.

        Every piece of the work has its own gradient of the weight, and of x where another piece has begun the
        same image; they are added in a fixed order.
        """
        pieces = self.pieces(torch.get_num_threads())
        grad_offset = torch.empty_like(self.offset, dtype=self.x.dtype)
        grad_mask = None if self.mask is None else torch.empty_like(self.mask, dtype=self.x.dtype)
        grad_x, tables = torch.zeros_like(self.x), self.x.new_zeros(len(pieces), *self.table.shape)
        apart = {number: torch.zeros_like(self.x[0]) for number, spans in enumerate(pieces) if spans[0][1] > 0}

        def work(number: int) -> None:
            for image, first, last in pieces[number]:
                into = apart[number] if first > 0 else grad_x[image]
                self.backward(grad_y, into, grad_offset, grad_mask, tables[number], image, first, last)

        parallel(work, range(len(pieces)))
        for number, part in apart.items():
            grad_x[pieces[number][0][0]] += part
        grad_offset = grad_offset.to(self.offset.dtype).unflatten(2, self.out)
        grad_mask = self.x.new_empty(0) if grad_mask is None else grad_mask.to(self.mask.dtype).unflatten(2, self.out)
        return grad_x, grad_offset, self.grad_weight(tables.sum(0)), grad_mask

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
        table: Tensor,
        image: int,
        first: int,
        last: int,
    ) -> None:
        """Gradients from some positions of one image; those of x and of the weight's table are added up."""
        given, reads = grad_y[image].flatten(0, -2), self.reads(image)
        into = flat(grad_x), self.strided(grad_offset, image), self.strided(grad_mask, image)
        if self.depthwise:
            weight, given = flat(self.table), flat(given)
            self.kernels.backward(self.grid, *reads, weight, given, first, last, *into, flat(table))
            return
        columns = self.new_columns(first, last)
        for start, end in self.tiles(first, last):
            above = given[start:end].unflatten(1, (self.groups, -1)).transpose(0, 1)
            below = (above @ self.table.mT).unflatten(2, (self.points, -1)).permute(1, 2, 0, 3).contiguous()
            self.kernels.backward(self.grid, *reads, None, flat(below), start, end, *into, flat(columns))
            table.baddbmm_(self.by_groups(columns[: end - start]).mT, above)


def flat(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).numpy()


def with_one_stride(tensor: Tensor | None) -> Tensor | None:
    """`tensor` `(B, channels, *S')` as `(B, channels, positions)`, copied only where no single stride leads through."""
    return None if tensor is None else tensor.flatten(2)
