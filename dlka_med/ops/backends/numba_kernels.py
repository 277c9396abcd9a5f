"""Loops of the CPU backend, compiled by Numba; all arrays are flat and every place is checked before it is read.

Output positions are handled `BLOCK` at a time. For one kernel point of one offset group, `locate` finds the
cell of every position in the block, vectorised over the positions; the loops over channels, vectorised over
the channels, then share it. Spatial axes are three throughout: fewer are preceded by axes of size 1, and a
cell has one plane of four corners in 1D and 2D, two planes in 3D.

Kernels release the interpreter's lock and start no threads of their own, so that a forked process may call
them whatever its parent did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
from numba.core.compiler import Compiler

BLOCK = 64


class Grid(NamedTuple):
    """Voxels per axis of input and output, the kernel's geometry, and the numbers of groups and channels."""

    spatial_dims: int
    size: tuple[int, int, int]
    out: tuple[int, int, int]
    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    dilation: tuple[int, int, int]
    offset_groups: int
    channels: int


class Strided(NamedTuple):
    """The memory of a tensor `(channels, positions)`: flat values, the first one's place, and the strides."""

    values: np.ndarray
    first: int
    channel: int
    position: int


class NoAlias(Compiler):
    """Promises that no two arrays among a function's arguments overlap, so that loops need not check it."""

    def define_pipelines(self):
        """As always, after the promise."""
        self.state.flags.noalias = True
        return super().define_pipelines()


def compiled(function: Callable) -> Callable:
    """`function` compiled at its first call, kept on disk where a folder for that can be written.

    Sums may be reordered and multiplications fused with additions; NaN and infinity keep their meaning.
    """
    options = {
        "nogil": True,
        "pipeline_class": NoAlias,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz"},
    }
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:
        return numba.njit(function, **options)


@compiled
def buffers(like):
    """Scratch of one block: start, side, exists, factor, share, dots, place, row, inside (see `locate`)."""
    dtype = like.dtype
    return (
        np.empty(3 * BLOCK, np.int32),
        np.empty(6 * BLOCK, dtype),
        np.empty(6 * BLOCK, dtype),
        np.ones(BLOCK, dtype),
        np.empty(8 * BLOCK, dtype),
        np.empty(8 * BLOCK, dtype),
        np.empty(6 * BLOCK, np.int32),
        np.empty(8 * BLOCK, np.int32),
        np.empty(BLOCK, np.int32),
    )


@compiled
def points_of(grid):
    """Number of kernel points."""
    return grid.kernel_size[0] * grid.kernel_size[1] * grid.kernel_size[2]


@compiled
def set_start(grid, first, count, start):
    """Place of the first kernel point, without its offset, of `count` output positions."""
    for i in range(count):
        rest = first + i
        for axis in (2, 1, 0):
            index = rest % grid.out[axis]
            rest //= grid.out[axis]
            start[axis * BLOCK + i] = index * grid.stride[axis] - grid.padding[axis]


@compiled
def locate(grid, group, point, offset, mask, first, count, scratch):
    """Rows and linear weights (times the mask) of the corners around one kernel point of a block of positions.

    A point that touches no voxel is not `inside`; a corner outside has no weight and repeats its neighbour.
    """
    start, side, exists, factor, share, _, place, row, inside = scratch
    zero, one = side.dtype.type(0), side.dtype.type(1)
    points = points_of(grid)
    channel = (group * points + point) * grid.spatial_dims
    pitch, rest = 1, point
    for i in range(count):
        inside[i] = 1
    for axis in (2, 1, 0):
        size = np.int32(grid.size[axis])
        end = side.dtype.type(size) if size > 0 else -one
        step = np.int32(pitch)
        tap = np.int32(rest % grid.kernel_size[axis] * grid.dilation[axis])
        rest //= grid.kernel_size[axis]
        pitch *= grid.size[axis]
        own = axis + grid.spatial_dims - 3
        begin = np.uint64(offset.first + (channel + own) * offset.channel + first * offset.position)
        stride = np.uint64(offset.position)
        low_side = axis * 2 * BLOCK
        high_side = low_side + BLOCK
        for i in range(count):
            side[low_side + i] = offset.values[begin + np.uint64(i) * stride] if own >= 0 else zero
        for i in range(count):
            position = side[low_side + i] + side.dtype.type(np.int32(start[axis * BLOCK + i] + tap))
            touches = (position > -one) & (position < end)
            position = position if touches else zero
            low = np.int32(position) if position >= zero else np.int32(-1)
            behind = position - side.dtype.type(low)
            has_low = one if low >= 0 else zero
            has_high = one if low + np.int32(1) < size else zero
            exists[low_side + i] = has_low
            exists[high_side + i] = has_high
            side[low_side + i] = has_low * (one - behind)
            side[high_side + i] = has_high * behind
            place[low_side + i] = max(low, np.int32(0)) * step
            place[high_side + i] = min(low + np.int32(1), size - np.int32(1)) * step
            inside[i] &= np.int32(touches)
    if mask.values.size:
        begin = np.uint64(mask.first + (group * points + point) * mask.channel + first * mask.position)
        stride = np.uint64(mask.position)
        for i in range(count):
            factor[i] = mask.values[begin + np.uint64(i) * stride]
    for corner in range(8 if grid.spatial_dims == 3 else 4):
        z, y, x = (corner >> 2) * BLOCK, (2 + (corner >> 1 & 1)) * BLOCK, (4 + (corner & 1)) * BLOCK
        for i in range(count):
            share[corner * BLOCK + i] = side[z + i] * side[y + i] * side[x + i] * factor[i]
            row[corner * BLOCK + i] = place[z + i] + place[y + i] + place[x + i]


@compiled
def blend(grid, x, group, count, scratch, weight, weight_begin, y, y_begin, y_step):
    """Add one sampled point, times the weight, to `y`, per channel of the group, for a block of positions."""
    share, row, inside = scratch[4], scratch[7], scratch[8]
    channels, width = grid.channels, np.uint64(grid.channels // grid.offset_groups)
    lead, factor = group * (channels // grid.offset_groups), np.uint64(weight_begin)
    for i in range(count):
        if not inside[i]:
            continue
        into = np.uint64(y_begin + i * y_step)
        for at in range(i, 8 * BLOCK if grid.spatial_dims == 3 else 4 * BLOCK, 4 * BLOCK):
            a = np.uint64(row[at] * channels + lead)
            b = np.uint64(row[at + BLOCK] * channels + lead)
            c = np.uint64(row[at + 2 * BLOCK] * channels + lead)
            d = np.uint64(row[at + 3 * BLOCK] * channels + lead)
            s, t, u, v = share[at], share[at + BLOCK], share[at + 2 * BLOCK], share[at + 3 * BLOCK]
            for n in range(width):
                y[into + n] += weight[factor + n] * (s * x[a + n] + t * x[b + n] + u * x[c + n] + v * x[d + n])


@compiled
def weighted_sum(grid, x, offset, mask, weight, first, last, y):
    """Depthwise: add the weighted sums at positions first..last of one image to `y` (positions, channels).

    `x` is (voxels, channels), `weight` (points, channels).
    """
    scratch = buffers(x)
    channels = grid.channels
    for begin in range(first, last, BLOCK):
        count = min(BLOCK, last - begin)
        set_start(grid, begin, count, scratch[0])
        for group in range(grid.offset_groups):
            lead = group * (channels // grid.offset_groups)
            for point in range(points_of(grid)):
                locate(grid, group, point, offset, mask, begin, count, scratch)
                row = point * channels + lead
                blend(grid, x, group, count, scratch, weight, row, y, begin * channels + lead, channels)


@compiled
def fill_columns(grid, x, offset, mask, ones, first, last, columns):
    """The sampled values (times the mask) at positions first..last of one image: (positions, points, channels)."""
    scratch = buffers(x)
    step = points_of(grid) * grid.channels
    columns[: (last - first) * step] = 0
    for begin in range(first, last, BLOCK):
        count = min(BLOCK, last - begin)
        set_start(grid, begin, count, scratch[0])
        for group in range(grid.offset_groups):
            for point in range(points_of(grid)):
                locate(grid, group, point, offset, mask, begin, count, scratch)
                lead = point * grid.channels + group * (grid.channels // grid.offset_groups)
                blend(grid, x, group, count, scratch, ones, 0, columns, (begin - first) * step + lead, step)


@compiled
def pull(grid, x, group, count, scratch, gradient, value, lead, step, grad_x):
    """Backward of one sampled point, given its gradient per channel, for a block of positions.

    Adds the sampled value to `value`, spreads the gradient over the corners in `grad_x`, and leaves in `dots`
    each corner's inner product of voxel and gradient.
    """
    share, dots, row, inside = scratch[4], scratch[5], scratch[7], scratch[8]
    channels, width = grid.channels, np.uint64(grid.channels // grid.offset_groups)
    begin = group * (channels // grid.offset_groups)
    dots[:] = 0
    for i in range(count):
        if not inside[i]:
            continue
        place = np.uint64(lead + i * step)
        for at in range(i, 8 * BLOCK if grid.spatial_dims == 3 else 4 * BLOCK, 4 * BLOCK):
            a = np.uint64(row[at] * channels + begin)
            b = np.uint64(row[at + BLOCK] * channels + begin)
            c = np.uint64(row[at + 2 * BLOCK] * channels + begin)
            d = np.uint64(row[at + 3 * BLOCK] * channels + begin)
            s, t, u, v = share[at], share[at + BLOCK], share[at + 2 * BLOCK], share[at + 3 * BLOCK]
            dot_a = dot_b = dot_c = dot_d = share.dtype.type(0)
            for n in range(width):
                g = gradient[place + n]
                dot_a += g * x[a + n]
                dot_b += g * x[b + n]
                dot_c += g * x[c + n]
                dot_d += g * x[d + n]
                value[place + n] += s * x[a + n] + t * x[b + n] + u * x[c + n] + v * x[d + n]
            dots[at], dots[at + BLOCK], dots[at + 2 * BLOCK], dots[at + 3 * BLOCK] = dot_a, dot_b, dot_c, dot_d
            for n in range(width):
                grad_x[a + n] += s * gradient[place + n]
            for n in range(width):
                grad_x[b + n] += t * gradient[place + n]
            for n in range(width):
                grad_x[c + n] += u * gradient[place + n]
            for n in range(width):
                grad_x[d + n] += v * gradient[place + n]


@compiled
def set_slopes(grid, group, point, first, count, scratch, slopes, grad_offset, grad_mask):
    """From the inner products at all corners, the gradients of one kernel point's offset and mask."""
    _, side, exists, factor, _, dots, _, _, _ = scratch
    points = points_of(grid)
    for n in range(4 * BLOCK):
        slopes[n] = 0
    for corner in range(8 if grid.spatial_dims == 3 else 4):
        z, y, x = (corner >> 2) * BLOCK, (2 + (corner >> 1 & 1)) * BLOCK, (4 + (corner & 1)) * BLOCK
        up_z = side.dtype.type(2 * (corner >> 2) - 1)
        up_y = side.dtype.type(2 * (corner >> 1 & 1) - 1)
        up_x = side.dtype.type(2 * (corner & 1) - 1)
        for i in range(count):
            dot = dots[corner * BLOCK + i]
            slopes[i] += up_z * exists[z + i] * side[y + i] * side[x + i] * dot
            slopes[BLOCK + i] += up_y * side[z + i] * exists[y + i] * side[x + i] * dot
            slopes[2 * BLOCK + i] += up_x * side[z + i] * side[y + i] * exists[x + i] * dot
            slopes[3 * BLOCK + i] += side[z + i] * side[y + i] * side[x + i] * dot
    place = group * points + point
    for own in range(grid.spatial_dims):
        axis = own + 3 - grid.spatial_dims
        begin = np.uint64(
            grad_offset.first + (place * grid.spatial_dims + own) * grad_offset.channel + first * grad_offset.position
        )
        for i in range(count):
            slope = slopes[axis * BLOCK + i] * factor[i]
            grad_offset.values[begin + np.uint64(i) * np.uint64(grad_offset.position)] = slope
    if grad_mask.values.size:
        begin = np.uint64(grad_mask.first + place * grad_mask.channel + first * grad_mask.position)
        for i in range(count):
            grad_mask.values[begin + np.uint64(i) * np.uint64(grad_mask.position)] = slopes[3 * BLOCK + i]


@compiled
def times(grad_y, begin, step, count, width, weight, row, gradient):
    """Depthwise: gradient of one sampled point, (positions, width), for a block of positions."""
    for i in range(count):
        source, into = np.uint64(begin + i * step), np.uint64(i * width)
        for n in range(np.uint64(width)):
            gradient[into + n] = grad_y[source + n] * weight[np.uint64(row) + n]


@compiled
def add_products(grad_y, begin, step, count, width, value, grad_weight, row):
    """Depthwise: add the gradient of one kernel point's weight, from a block of positions."""
    for i in range(count):
        source, into = np.uint64(begin + i * step), np.uint64(i * width)
        for n in range(np.uint64(width)):
            grad_weight[np.uint64(row) + n] += grad_y[source + n] * value[into + n]


@compiled
def weighted_sum_backward(
    grid, x, offset, mask, weight, grad_y, first, last, grad_x, grad_offset, grad_mask, grad_weight
):
    """Depthwise: gradients of `weighted_sum`; those of x and weight are added to what is there."""
    scratch, slopes = buffers(x), np.empty(4 * BLOCK, x.dtype)
    channels, width = grid.channels, grid.channels // grid.offset_groups
    gradient, value = np.empty(BLOCK * width, x.dtype), np.empty(BLOCK * width, x.dtype)
    for begin in range(first, last, BLOCK):
        count = min(BLOCK, last - begin)
        set_start(grid, begin, count, scratch[0])
        for group in range(grid.offset_groups):
            for point in range(points_of(grid)):
                locate(grid, group, point, offset, mask, begin, count, scratch)
                row, source = point * channels + group * width, begin * channels + group * width
                times(grad_y, source, channels, count, width, weight, row, gradient)
                value[:] = 0
                pull(grid, x, group, count, scratch, gradient, value, 0, width, grad_x)
                add_products(grad_y, source, channels, count, width, value, grad_weight, row)
                set_slopes(grid, group, point, begin, count, scratch, slopes, grad_offset, grad_mask)


@compiled
def columns_backward(grid, x, offset, mask, grad_columns, first, last, grad_x, grad_offset, grad_mask, columns):
    """Gradients of `fill_columns`, and the columns again; the gradient of x is added to what is there."""
    scratch, slopes = buffers(x), np.empty(4 * BLOCK, x.dtype)
    step = points_of(grid) * grid.channels
    columns[: (last - first) * step] = 0
    for begin in range(first, last, BLOCK):
        count = min(BLOCK, last - begin)
        set_start(grid, begin, count, scratch[0])
        for group in range(grid.offset_groups):
            for point in range(points_of(grid)):
                locate(grid, group, point, offset, mask, begin, count, scratch)
                lead = point * grid.channels + group * (grid.channels // grid.offset_groups)
                at = (begin - first) * step + lead
                pull(grid, x, group, count, scratch, grad_columns, columns, at, step, grad_x)
                set_slopes(grid, group, point, begin, count, scratch, slopes, grad_offset, grad_mask)
