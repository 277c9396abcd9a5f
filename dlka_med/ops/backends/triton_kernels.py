"""Kernels of the CUDA backend, compiled by Triton.

Tensors with channels are channels-last: x is `(B, *S, C)`, y `(B, *S', O)`. Offset, mask and their gradients go by
`strides`, in this order. A table is a weight as `(points, channels, outputs of a group)`.

A program owns a block of output positions, counted through all images, and passes over channels in blocks that a
warp reads as whole lines of memory. What a kernel point has at a position, its cell and the linear weights, is
computed once for all channels.
"""

# ruff: noqa: RUF005  Triton has no starred expressions.

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dlka_med.ops.backends.triton_cells import (
    at_corner,
    cells_of,
    corner_of,
    outputs_of,
    positions_of,
    rows_of,
    sampled,
    slope_of,
    values_at,
)

DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def weighted_sum(
    x, offset, mask, table, bias, y, layout, strides,
    KERNEL: tl.constexpr, POINTS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
    WIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Depthwise: y, from a block of positions and a block of channels of one offset group."""
    parts = tl.cdiv(layout.width, BLOCK_C)
    program, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    groups = layout.channels // layout.width
    block, group = program // groups, program % groups
    here = positions_of(layout, block, BLOCK_P, len(KERNEL), WIDE)
    inner = part * BLOCK_C + tl.arange(0, BLOCK_C)
    channel, wanted = group * layout.width + inner, inner < layout.width
    total = tl.zeros((BLOCK_P, BLOCK_C), ACC)
    for point in range(POINTS):
        row = group * POINTS + point
        cell = cells_of(layout, offset, mask, strides, here, row, point, KERNEL, WIDE, ACC)
        value = sampled(layout, x, cell, channel, wanted, len(KERNEL), ACC)
        if table is not None:
            value *= tl.load(table + point * layout.channels + channel, mask=wanted, other=0.0)[None, :]
        total += value
    if bias is not None:
        total += tl.load(bias + channel, mask=wanted, other=0.0).to(ACC)[None, :]
    tile = here[0][:, None] * layout.channels + channel[None, :]
    tl.store(y + tile, total.to(y.dtype.element_ty), mask=here[1][:, None] & wanted[None, :])


@triton.jit
def convolution(
    x, offset, mask, table, bias, y, layout, strides,
    KERNEL: tl.constexpr, POINTS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y, from a block of positions and a block of outputs of one group, by products of sampled tiles and table.

    A group may reach into several offset groups, and only into a part of each.
    """
    parts, groups = tl.cdiv(layout.outputs, BLOCK_O), layout.channels // layout.depth
    program, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    block, group = program // groups, program % groups
    here = positions_of(layout, block, BLOCK_P, len(KERNEL), WIDE)
    out = part * BLOCK_O + tl.arange(0, BLOCK_O)
    asked = out < layout.outputs
    first, last = group * layout.depth, (group + 1) * layout.depth
    total = tl.zeros((BLOCK_P, BLOCK_O), ACC)
    for shared in range(first // layout.width, (last - 1) // layout.width + 1):
        begin, end = max(first, shared * layout.width), min(last, (shared + 1) * layout.width)
        for point in range(POINTS):
            row = shared * POINTS + point
            cell = cells_of(layout, offset, mask, strides, here, row, point, KERNEL, WIDE, ACC)
            for lead in range(begin, end, BLOCK_C):
                channel = lead + tl.arange(0, BLOCK_C)
                column = sampled(layout, x, cell, channel, channel < end, len(KERNEL), ACC)
                place = (point * layout.channels + channel)[:, None] * layout.outputs + out[None, :]
                weight = tl.load(table + place, mask=(channel < end)[:, None] & asked[None, :], other=0.0)
                total = tl.dot(column, weight, total, input_precision=PRECISION)
    out += group * layout.outputs
    if bias is not None:
        total += tl.load(bias + out, mask=asked, other=0.0).to(ACC)[None, :]
    tile = here[0][:, None] * outputs_of(layout) + out[None, :]
    tl.store(y + tile, total.to(y.dtype.element_ty), mask=here[1][:, None] & asked[None, :])


@triton.jit
def column_gradient(
    layout, grad_y, table, here, point, group, channel, wanted,
    BLOCK_O: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of a sampled tile (positions, channels) of one group; depthwise if there is no `BLOCK_O`."""
    if BLOCK_O is None:
        gradient = rows_of(grad_y, here, layout.channels, channel, wanted, ACC)
        if table is not None:
            gradient *= tl.load(table + point * layout.channels + channel, mask=wanted, other=0.0)[None, :]
    else:
        gradient = tl.zeros((here[0].shape[0], channel.shape[0]), ACC)
        for lead in range(0, layout.outputs, BLOCK_O):
            out = lead + tl.arange(0, BLOCK_O)
            asked = out < layout.outputs
            given = rows_of(grad_y, here, outputs_of(layout), group * layout.outputs + out, asked, ACC)
            place = (point * layout.channels + channel)[:, None] * layout.outputs + out[None, :]
            weight = tl.load(table + place, mask=wanted[:, None] & asked[None, :], other=0.0)
            gradient = tl.dot(given, tl.trans(weight), gradient, input_precision=PRECISION)
    return gradient


@triton.jit
def data_gradient(
    grad_y, x, offset, mask, table, grad_x, grad_offset, grad_mask, layout, strides, chunk,
    KERNEL: tl.constexpr, POINTS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of offset and mask, and that of x, added to what is there; those that are None are left out.

    From a block of positions, some kernel points and all channels of one offset group, so that the first two need
    no atomic addition.
    """
    chunks, groups = tl.cdiv(POINTS, chunk), layout.channels // layout.width
    program, lead_point = tl.program_id(0) // chunks, tl.program_id(0) % chunks * chunk
    block, shared = program // groups, program % groups
    here = positions_of(layout, block, BLOCK_P, len(KERNEL), WIDE)
    first, last = shared * layout.width, (shared + 1) * layout.width
    for point in range(lead_point, min(lead_point + chunk, POINTS)):
        row = shared * POINTS + point
        cell = cells_of(layout, offset, mask, strides, here, row, point, KERNEL, WIDE, ACC)
        level = tl.zeros((BLOCK_P,), ACC)
        slopes = ()
        for _ in tl.static_range(len(KERNEL)):
            slopes = slopes + (tl.zeros((BLOCK_P,), ACC),)
        for group in range(first // layout.depth, (last - 1) // layout.depth + 1):
            begin, end = max(first, group * layout.depth), min(last, (group + 1) * layout.depth)
            for lead in range(begin, end, BLOCK_C):
                channel = lead + tl.arange(0, BLOCK_C)
                wanted = channel < end
                gradient = column_gradient(
                    layout, grad_y, table, here, point, group, channel, wanted, BLOCK_O, PRECISION, ACC
                )
                tile = cell[0][:, None] + channel[None, :]
                spread = gradient * cell[4][:, None]
                for corner in tl.static_range(2 ** len(KERNEL)):
                    share, exists = corner_of(cell, corner, len(KERNEL))
                    touched = exists[:, None] & wanted[None, :]
                    if grad_x is not None:
                        into = at_corner(layout, grad_x, corner, len(KERNEL)) + tile
                        tl.atomic_add(into, share[:, None] * spread, mask=touched, sem="relaxed")
                    if grad_offset is not None or grad_mask is not None:
                        voxel = tl.load(at_corner(layout, x, corner, len(KERNEL)) + tile, mask=touched, other=0.0)
                        dot = tl.sum(voxel.to(ACC) * gradient, 1)
                        level += share * dot
                        steeper = ()
                        for axis in tl.static_range(len(KERNEL)):
                            steeper = steeper + (slopes[axis] + slope_of(cell, corner, axis, len(KERNEL)) * dot,)
                        slopes = steeper
        if grad_mask is not None:
            into = grad_mask + values_at(strides[3], here, row, WIDE)
            tl.store(into, level.to(grad_mask.dtype.element_ty), mask=here[1])
        if grad_offset is not None:
            into = grad_offset + values_at(strides[2], here, row * len(KERNEL), WIDE)
            for axis in tl.static_range(len(KERNEL)):
                slope = (slopes[axis] * cell[4]).to(grad_offset.dtype.element_ty)
                tl.store(into + axis * strides[2].channel, slope, mask=here[1])


@triton.jit
def weight_gradient(
    grad_y, x, offset, mask, sums, layout, strides, span,
    KERNEL: tl.constexpr, POINTS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of the table from `span` blocks of positions, into its place in `sums` (spans, *table).

    Of one kernel point, and of one group, or depthwise, if there is no `BLOCK_O`, of one offset group.
    """
    depth = layout.depth
    if BLOCK_O is None:
        depth = layout.width
    pieces, parts = tl.cdiv(depth, BLOCK_C), 1
    if BLOCK_O is not None:
        parts = tl.cdiv(layout.outputs, BLOCK_O)
    rest, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    rest, piece = rest // pieces, rest % pieces
    rest, group = rest // (layout.channels // depth), rest % (layout.channels // depth)
    number, point = rest // POINTS, rest % POINTS
    first, end = group * depth + piece * BLOCK_C, min((group + 1) * depth, group * depth + (piece + 1) * BLOCK_C)
    channel = first + tl.arange(0, BLOCK_C)
    row = (number * POINTS + point) * layout.channels + channel
    if BLOCK_O is None:
        total = tl.zeros((BLOCK_P, BLOCK_C), ACC)
    else:
        out = part * BLOCK_O + tl.arange(0, BLOCK_O)
        total = tl.zeros((BLOCK_C, BLOCK_O), ACC)
    for block in range(number * span, min((number + 1) * span, tl.cdiv(layout.total, BLOCK_P))):
        here = positions_of(layout, block, BLOCK_P, len(KERNEL), WIDE)
        for shared in range(first // layout.width, (end - 1) // layout.width + 1):
            wanted = (channel >= shared * layout.width) & (channel < min(end, (shared + 1) * layout.width))
            cell = cells_of(layout, offset, mask, strides, here, shared * POINTS + point, point, KERNEL, WIDE, ACC)
            column = sampled(layout, x, cell, channel, wanted, len(KERNEL), ACC)
            if BLOCK_O is None:
                total += column * rows_of(grad_y, here, layout.channels, channel, wanted, ACC)
            else:
                given = rows_of(
                    grad_y, here, outputs_of(layout), group * layout.outputs + out, out < layout.outputs, ACC
                )
                total = tl.dot(tl.trans(column), given, total, input_precision=PRECISION)
    if BLOCK_O is None:
        tl.store(sums + row, tl.sum(total, 0), mask=channel < end)
    else:
        into = sums + row[:, None] * layout.outputs + out[None, :]
        tl.store(into, total, mask=(channel < end)[:, None] & (out < layout.outputs)[None, :])
