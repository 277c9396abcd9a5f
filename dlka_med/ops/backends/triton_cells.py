"""Cells around kernel points, as the kernels of the CUDA backend see them.

Tuples have one entry per spatial axis; loops over axes and over the `2**d` corners of a cell are unrolled. A corner
that does not exist is neither read nor written. Coordinates and sums are of dtype `ACC`; places in memory are 64-bit
integers where `WIDE`, else 32-bit.
"""

# ruff: noqa: RUF005  Triton has no starred expressions.

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Layout(NamedTuple):
    """Where points lie, and numbers: channels in all, in an offset group (width) and in a group (depth), outputs
    of a group, and positions in one image and in all (total). `pitch` leads in x to the next voxel of an axis."""

    size: tuple[int, ...]
    out: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    pitch: tuple[int, ...]
    channels: int
    width: int
    depth: int
    outputs: int
    positions: int
    total: int


class Strides(NamedTuple):
    """Of a tensor `(B, channels, positions)`."""

    image: int
    channel: int
    position: int


@triton.jit
def positions_of(layout, block, BLOCK: tl.constexpr, DIMS: tl.constexpr, WIDE: tl.constexpr):
    """A block of output positions: number, exists, number within its image, image, place of the first kernel point."""
    number = tl.full((BLOCK,), BLOCK, tl.int64 if WIDE else tl.int32) * block + tl.arange(0, BLOCK)
    within, image = number % layout.positions, number // layout.positions
    rest = within
    start = ()
    for i in tl.static_range(DIMS):
        index = (rest % layout.out[DIMS - 1 - i]).to(tl.int32)
        rest = rest // layout.out[DIMS - 1 - i]
        start = (index * layout.stride[DIMS - 1 - i] - layout.padding[DIMS - 1 - i],) + start
    return number, number < layout.total, within, image, start


@triton.jit
def values_at(strides, here, channel, WIDE: tl.constexpr):
    """Place of one channel of an offset, a mask or their gradients at a block of positions."""
    if WIDE:
        channel = channel.to(tl.int64)
    return here[3] * strides.image + here[2] * strides.position + channel * strides.channel


@triton.jit
def cells_of(
    layout, offset, mask, strides, here, row, point, KERNEL: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """The cells around one kernel point at a block of positions: place of the first corner, whether the point
    touches a voxel (one at NaN does not), per axis the linear weights of both sides and whether they exist, and
    the mask. `row` counts the kernel points of all offset groups."""
    exists, image, start = here[1], here[3], here[4]
    factor = tl.full(exists.shape, 1.0, ACC)
    if mask is not None:
        factor = tl.load(mask + values_at(strides[1], here, row, WIDE), mask=exists, other=0.0).to(ACC)
    shifts = offset + values_at(strides[0], here, row * len(KERNEL), WIDE)
    taps = ()
    rest = point
    for i in tl.static_range(len(KERNEL)):
        taps = (rest % KERNEL[len(KERNEL) - 1 - i] * layout.dilation[len(KERNEL) - 1 - i],) + taps
        rest = rest // KERNEL[len(KERNEL) - 1 - i]
    place, touches = image, exists
    weights, sides = (), ()
    for axis in tl.static_range(len(KERNEL)):
        shift = tl.load(shifts + axis * strides[0].channel, mask=exists, other=0.0).to(ACC)
        position = (start[axis] + taps[axis]).to(ACC) + shift
        inside = (position > -1) & (position < layout.size[axis])
        position = tl.where(inside, position, 0.0)
        low = tl.floor(position)
        behind = position - low
        low = low.to(tl.int32)
        touches = touches & inside
        place = place * layout.size[axis] + low
        weights = weights + ((1 - behind, behind),)
        sides = sides + ((low >= 0, low + 1 < layout.size[axis]),)
    return place * layout.channels, touches, weights, sides, factor


@triton.jit
def corner_of(cell, CORNER: tl.constexpr, DIMS: tl.constexpr):
    """Linear weight of one corner, and whether it exists."""
    share, exists = cell[2][0][CORNER >> (DIMS - 1) & 1], cell[1] & cell[3][0][CORNER >> (DIMS - 1) & 1]
    for axis in tl.static_range(1, DIMS):
        share *= cell[2][axis][CORNER >> (DIMS - 1 - axis) & 1]
        exists &= cell[3][axis][CORNER >> (DIMS - 1 - axis) & 1]
    return share, exists


@triton.jit
def slope_of(cell, CORNER: tl.constexpr, AXIS: tl.constexpr, DIMS: tl.constexpr):
    """Derivative of a corner's linear weight along one axis."""
    slope = 2.0 * (CORNER >> (DIMS - 1 - AXIS) & 1) - 1.0
    for axis in tl.static_range(DIMS):
        if axis != AXIS:
            slope *= cell[2][axis][CORNER >> (DIMS - 1 - axis) & 1]
    return slope


@triton.jit
def at_corner(layout, x, CORNER: tl.constexpr, DIMS: tl.constexpr):
    """`x` moved from the first corner of a cell to another; step by step, each of which 32 bits may hold."""
    for axis in tl.static_range(DIMS):
        if CORNER >> (DIMS - 1 - axis) & 1:
            x += layout.pitch[axis]
    return x


@triton.jit
def sampled(layout, x, cell, channel, wanted, DIMS: tl.constexpr, ACC: tl.constexpr):
    """Values of x at a kernel point, times the mask, (positions, channels); zero for channels not wanted."""
    tile = cell[0][:, None] + channel[None, :]
    value = 0.0
    for corner in tl.static_range(2**DIMS):
        share, exists = corner_of(cell, corner, DIMS)
        voxel = tl.load(at_corner(layout, x, corner, DIMS) + tile, mask=exists[:, None] & wanted[None, :], other=0.0)
        value += share[:, None] * voxel.to(ACC)
    return value * cell[4][:, None]


@triton.jit
def outputs_of(layout):
    """Channels of y."""
    return layout.channels // layout.depth * layout.outputs


@triton.jit
def rows_of(y, here, channels, channel, wanted, ACC: tl.constexpr):
    """Some channels of y, (positions, channels)."""
    tile = here[0][:, None] * channels + channel[None, :]
    return tl.load(y + tile, mask=here[1][:, None] & wanted[None, :], other=0.0).to(ACC)
