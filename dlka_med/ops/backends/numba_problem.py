"""One call of the CPU backend: how its work is cut into pieces and tiles, and what each hands to the compiled loops."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from dlka_med.ops.backends.numba_threads import parallel
from dlka_med.ops.backends.registration import outputs
from dlka_med.ops.geometry import Geometry

TILE_BYTES = 2**20
NUMBERS = 2**32 - 1


def why_too_large(x: Tensor) -> str | None:
    """The reason why the loops cannot count the numbers in an image of `x`, None if they can."""
    if math.prod(x.shape[1:]) < NUMBERS:
        return None
    return f"expected fewer than 2**32 - 1 numbers in an image, got shape {tuple(x.shape)}"


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
        if (reason := why_too_large(x)) is not None:
            raise ValueError(f"backend numba_cpu: {reason}")
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
        self.numbers = x.numel() + offset.numel() + self.table.numel() + self.batch * self.positions * self.outputs
        room = min(TILE_BYTES, self.numbers * x.element_size() // torch.get_num_threads())
        self.tile = max(room // (self.points * self.channels * x.element_size()), 1)

    def result(self, bias: Tensor | None) -> Tensor:
        """The sums, `(B, *S', O)`."""
        y = self.x.new_empty(self.batch, *self.out, self.outputs)
        y.zero_() if bias is None else y.copy_(bias.detach())
        parallel(lambda spans: [self.forward(y, *span) for span in spans], self.pieces(2 * torch.get_num_threads()))
        return y

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

    def gradients(self, grad_y: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of x, offset, weight and mask; empty where not wanted.

        Every piece of the work has its own gradient of the weight, and of x where another piece has begun the
        same image; they are added in a fixed order. Where the latter were more than the tensors of the call, the
        gradient of x is found apart from the others, by fewer pieces that share the channels among the threads.
        """
        for_x, for_offset, for_weight, for_mask = wanted
        threads, everywhere = torch.get_num_threads(), (0, self.channels)
        pieces = self.pieces(threads)
        new = self.x.new_zeros
        grad_x = new(self.x.shape) if for_x else None
        grad_offset, grad_mask = (
            torch.empty_like(t, dtype=self.x.dtype) if t is not None and (for_offset or for_mask) else None
            for t in (self.offset, self.mask)
        )
        tables = new(len(pieces), *self.table.shape) if for_weight else [None] * len(pieces)
        copies = max(self.numbers // max(math.prod(self.x.shape[1:]), 1), 1)
        together = not for_x or sum(begins_inside(spans) for spans in pieces) <= copies
        holders = pieces if together else self.pieces(copies + 1)
        into = [new(self.x.shape[1:]) if for_x and begins_inside(spans) else None for spans in holders]

        def target(number: int, image: int, first: int) -> Tensor:
            return into[number] if first > 0 else grad_x[image]

        def work(number: int) -> None:
            for span in pieces[number]:
                onto = target(number, *span[:2]) if for_x and together else None
                self.backward(grad_y, onto, grad_offset, grad_mask, tables[number], *span, *everywhere)

        def work_for_x(item: tuple[int, tuple[int, int]]) -> None:
            number, channels = item
            for span in holders[number]:
                self.backward(grad_y, target(number, *span[:2]), None, None, None, *span, *channels)

        if together or any(wanted[1:]):
            parallel(work, range(len(pieces)))
        if not together:
            blocks = self.channel_blocks(threads // len(holders))
            parallel(work_for_x, list(itertools.product(range(len(holders)), blocks)))
        for spans, part in zip(holders, into, strict=True):
            if part is not None:
                grad_x[spans[0][0]] += part
        found = (
            grad_x,
            grad_offset.to(self.offset.dtype).unflatten(2, self.out) if for_offset else None,
            self.grad_weight(tables.sum(0)) if for_weight else None,
            grad_mask.to(self.mask.dtype).unflatten(2, self.out) if for_mask else None,
        )
        return tuple(self.x.new_empty(0) if gradient is None else gradient for gradient in found)

    def channel_blocks(self, number: int) -> list[tuple[int, int]]:
        """All channels in at most so many blocks `(first, last)`, of whole vectors, or of whole groups."""
        unit = self.kernels.LANES if self.depthwise or self.groups == 1 else self.channels // self.groups
        size = -(-self.channels // (max(number, 1) * unit)) * unit
        return [(low, min(low + size, self.channels)) for low in range(0, self.channels, size)]

    def grad_weight(self, table: Tensor) -> Tensor:
        """The gradient of `table` in the layout of the weight."""
        parts = table.T if self.depthwise else table.unflatten(1, (self.points, -1)).permute(0, 3, 2, 1)
        return self.weight.new_empty(self.weight.shape).copy_(parts.reshape(self.weight.shape))

    def backward(
        self,
        grad_y: Tensor,
        grad_x: Tensor | None,
        grad_offset: Tensor | None,
        grad_mask: Tensor | None,
        table: Tensor | None,
        image: int,
        first: int,
        last: int,
        low: int,
        high: int,
    ) -> None:
        """Gradients from some positions of one image and the channels `low` to `high`, all of them unless x's alone.

        None is not computed; those of x and of the weight's table are added up.
        """
        given, reads = grad_y[image].flatten(0, -2), self.reads(image)
        below_x = None if grad_x is None else flat(grad_x)
        moved = None if grad_offset is None else self.strided(grad_offset, image)
        into, channels = (below_x, moved, self.strided(grad_mask, image)), (low, high)
        if self.depthwise:
            result = None if table is None else flat(table)
            self.kernels.backward(
                self.grid, *reads, flat(self.table), flat(given), first, last, *channels, *into, result
            )
            return
        columns = None if table is None else self.new_columns(first, last)
        result = None if table is None else flat(columns)
        for start, end in self.tiles(first, last):
            above = given[start:end].unflatten(1, (self.groups, -1)).transpose(0, 1)
            if grad_x is None and grad_offset is None:
                self.kernels.forward(self.grid, *reads, None, start, end, result)
            else:
                below = flat(self.below(above, low, high))
                self.kernels.backward(self.grid, *reads, None, below, start, end, *channels, *into, result)
            if table is not None:
                table.baddbmm_(self.by_groups(columns[: end - start]).mT, above)

    def below(self, above: Tensor, low: int, high: int) -> Tensor:
        """Gradients of the columns of the channels `low` to `high` (of whole groups if there are many)."""
        depth = self.channels // self.groups
        first, last = low // depth, -(-high // depth)
        table = self.table.unflatten(1, (self.points, depth))
        table = table[first:last, :, low - first * depth : high - (last - 1) * depth].flatten(1, 2)
        return (above[first:last] @ table.mT).unflatten(2, (self.points, -1)).permute(1, 2, 0, 3).contiguous()


def begins_inside(spans: list[tuple[int, int, int]]) -> bool:
    """Whether a piece of the work begins within an image."""
    return spans[0][1] > 0


def flat(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).numpy()


def with_one_stride(tensor: Tensor | None) -> Tensor | None:
    """`tensor` `(B, channels, *S')` as `(B, channels, positions)`, copied only where no single stride leads through."""
    return None if tensor is None else tensor.flatten(2)
