"""Loops of the CPU backend, compiled by Numba; arrays are flat, and no place outside them is read or written.

Output positions are handled `BLOCK` at a time. `locate` finds the cells around all kernel points of a block; its
findings stay in the processor's cache. The loops behind it take a few channels at a time, side by side in a
vector, and go through all points of the block before they turn to the next channels, so that the voxels that
they need lie in the fastest cache.

The kernels release the interpreter's lock and start no threads of their own, so that a forked process may call
them whatever its parent did.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dlka_med.ops.backends.numba_cells import (
    BLOCK,
    NOWHERE,
    PLANE,
    Grid,
    Strided,
    along,
    compiled,
    fetch,
    inlined,
    locate,
    points_of,
    scatter,
    scratch,
    set_start,
)
from dlka_med.ops.backends.numba_vectors import every_fourth, load, splat, store, totals

__all__ = ["BLOCK", "LANES", "Grid", "Strided", "backward", "forward"]

WIDE, LANES = 32, 16
# Numba keeps compiled code by a function's arguments and the date of its file. As a default argument, this number
# has it notice changes of the other two files as well.
VERSION = zlib.crc32(
    b"".join(Path(__file__).with_name(f"numba_{name}.py").read_bytes() for name in ("cells", "vectors"))
)


def by_channels(lanes: int) -> tuple[Callable, Callable]:
    """`sample` and `spread` for as many channels at a time; `n` is the first of them within the group.

    With a weight (depthwise) their `y` and `grad_y` are `(positions, channels)`. Without one they are columns
    `(positions, points, channels)`.
    """

    @inlined
    def corner(share, rows, at):
        return splat(share[at], lanes), np.uint64(rows[at])

    @inlined
    def plane(x, share, rows, at, n):
        """Sum over the corners of one plane."""
        s, a = corner(share, rows, at)
        t, b = corner(share, rows, at + BLOCK)
        u, c = corner(share, rows, at + 2 * BLOCK)
        v, d = corner(share, rows, at + 3 * BLOCK)
        low = s * load(x, a + n, lanes) + t * load(x, b + n, lanes)
        return low + (u * load(x, c + n, lanes) + v * load(x, d + n, lanes))

    @inlined
    def sample(grid, x, share, rows, count, n, weight, lead, y, begin, step):
        """Add all sampled points, times the weight, to the result, or write them to columns."""
        at = np.uint64(0)
        for point in range(points_of(grid)):
            if weight is not None:
                factor = load(weight, np.uint64(point * grid.channels + lead) + n, lanes)
            for i in range(np.uint64(count)):
                into = np.uint64(begin) + i * np.uint64(step) + n
                if weight is None:
                    into += np.uint64(point * grid.channels)
                if rows[at + i] == NOWHERE:
                    if weight is None:
                        store(y, into, splat(x.dtype.type(0), lanes))
                    continue
                value = plane(x, share, rows, at + i, n)
                if len(grid.planes) == 2:
                    value = value + plane(x, share, rows, at + i + np.uint64(PLANE), n)
                if weight is None:
                    store(y, into, value)
                else:
                    store(y, into, load(y, into, lanes) + factor * value)
            at += np.uint64(PLANE * len(grid.planes))

    @inlined
    def pull(x, grad_x, grad_offset, gradient, share, rows, dots, at, i, n):
        """Sum over the corners of one plane; their gradients are added to what is there."""
        s, a = corner(share, rows, at + i)
        t, b = corner(share, rows, at + i + BLOCK)
        u, c = corner(share, rows, at + i + 2 * BLOCK)
        v, d = corner(share, rows, at + i + 3 * BLOCK)
        voxels = load(x, a + n, lanes), load(x, b + n, lanes), load(x, c + n, lanes), load(x, d + n, lanes)
        if grad_x is not None:
            store(grad_x, a + n, load(grad_x, a + n, lanes) + s * gradient)
            store(grad_x, b + n, load(grad_x, b + n, lanes) + t * gradient)
            store(grad_x, c + n, load(grad_x, c + n, lanes) + u * gradient)
            store(grad_x, d + n, load(grad_x, d + n, lanes) + v * gradient)
        if grad_offset is not None:
            into = at + np.uint64(4) * i
            products = gradient * voxels[0], gradient * voxels[1], gradient * voxels[2], gradient * voxels[3]
            if lanes == 1:
                for number in range(4):
                    dots[into + np.uint64(number)] += products[number]
            else:
                store(dots, into, load(dots, into, 4) + totals(products[0], products[1], products[2], products[3]))
        return (s * voxels[0] + t * voxels[1]) + (u * voxels[2] + v * voxels[3])

    @inlined
    def spread(
        grid, x, share, rows, dots, count, n, weight, lead, grad_y, begin, step, pitch, grad_x, grad_offset, result
    ):
        """Gradients of `sample`: of x, of the weight (or the columns once more), and each corner's inner product.

        `dots` is laid out like `share`, except that the corners of one plane and position lie side by side. There
        are `pitch` columns for a kernel point. None is left out.
        """
        at = np.uint64(0)
        for point in range(points_of(grid)):
            own = np.uint64(point * grid.channels + lead) + n
            gained = splat(x.dtype.type(0), lanes)
            if weight is not None:
                factor = load(weight, own, lanes)
            for i in range(np.uint64(count)):
                place = np.uint64(begin) + i * np.uint64(step) + n
                if weight is None:
                    place += np.uint64(point * pitch)
                if rows[at + i] == NOWHERE:
                    if weight is None and result is not None:
                        store(result, place, splat(x.dtype.type(0), lanes))
                    continue
                given = load(grad_y, place, lanes)
                gradient = given if weight is None else given * factor
                value = pull(x, grad_x, grad_offset, gradient, share, rows, dots, at, i, n)
                if len(grid.planes) == 2:
                    value = value + pull(
                        x, grad_x, grad_offset, gradient, share, rows, dots, at + np.uint64(PLANE), i, n
                    )
                if weight is not None:
                    gained = gained + given * value
                elif result is not None:
                    store(result, place, value)
            if weight is not None and result is not None:
                store(result, own, load(result, own, lanes) + gained)
            at += np.uint64(PLANE * len(grid.planes))

    return sample, spread


sample_wide, spread_wide = by_channels(WIDE)
sample_lanes, spread_lanes = by_channels(LANES)
sample_one, spread_one = by_channels(1)


@compiled
def forward(grid, x, offset, mask, weight, first, last, y, version=VERSION):
    """The sampled points at positions first..last of one image `x` (voxels, channels).

    With a weight (points, channels): their weighted sums, added to `y` (positions, channels). Without one:
    columns `y` (positions from first on, points, channels).
    """
    start, moved, share, rows, _ = scratch(grid, x)
    width = grid.channels // grid.offset_groups
    step = grid.channels if weight is not None else points_of(grid) * grid.channels
    whole, wide = np.uint64(width - width % LANES), np.uint64(width - width % WIDE)
    for begin in range(first, last, BLOCK):
        count = min(BLOCK, last - begin)
        set_start(grid, begin, count, start)
        for group in range(grid.offset_groups):
            locate(grid, group, offset, mask, begin, count, start, moved, share, rows)
            lead = group * width
            into = (begin if weight is not None else begin - first) * step + lead
            for n in range(np.uint64(0), wide, np.uint64(WIDE)):
                sample_wide(grid, x, share, rows, count, n, weight, lead, y, into, step)
            for n in range(wide, whole, np.uint64(LANES)):
                sample_lanes(grid, x, share, rows, count, n, weight, lead, y, into, step)
            for n in range(whole, np.uint64(width)):
                sample_one(grid, x, share, rows, count, n, weight, lead, y, into, step)


@inlined
def slope(low, high, axis):
    """Derivative along an axis, given the values before and behind: a voxel outside takes no part."""
    return axis[4] * high - axis[3] * low


@inlined
def between(low, high, axis):
    """Interpolated value."""
    return axis[1] * low + axis[2] * high


@inlined
def plane_of(dots, at):
    """Inner products at the four corners of one plane, for a block of positions."""
    return (
        every_fourth(dots, at, 0, BLOCK),
        every_fourth(dots, at, 1, BLOCK),
        every_fourth(dots, at, 2, BLOCK),
        every_fourth(dots, at, 3, BLOCK),
    )


@inlined
def plane_slopes(dots, at, y, x):
    """Derivatives along y and x within one plane, and the interpolated value."""
    a, b, c, d = plane_of(dots, at)
    low, high = between(a, b, x), between(c, d, x)
    return slope(low, high, y), between(slope(a, b, x), slope(c, d, x), y), between(low, high, y)


@inlined
def set_slopes(grid, group, offset, mask, first, count, start, moved, dots, grad_offset, grad_mask, space):
    """From the inner products at all corners, the gradients of the offsets and the mask of a block."""
    at, place, dims = np.uint64(0), group * points_of(grid), grid.spatial_dims
    for tap_z in range(0, grid.kernel_size[0] * grid.dilation[0], grid.dilation[0]):
        for tap_y in range(0, grid.kernel_size[1] * grid.dilation[1], grid.dilation[1]):
            for tap_x in range(0, grid.kernel_size[2] * grid.dilation[2], grid.dilation[2]):
                factor = fetch(grid, offset, mask, place, first, count, moved)
                x = along(2, grid.size[2], tap_x, start, moved)
                y = along(1, grid.size[1], tap_y, start, moved)
                along_y, along_x, value = plane_slopes(dots, at, y, x)
                channel = (place + 1) * dims
                if len(grid.planes) == 2:
                    z = along(0, grid.size[0], tap_z, start, moved)
                    above_y, above_x, above = plane_slopes(dots, at + np.uint64(PLANE), y, x)
                    along_z = slope(value, above, z)
                    scatter(grad_offset, channel - 3, first, count, along_z * factor, space)
                    along_y, along_x = between(along_y, above_y, z), between(along_x, above_x, z)
                    value = between(value, above, z)
                if dims > 1:
                    scatter(grad_offset, channel - 2, first, count, along_y * factor, space)
                scatter(grad_offset, channel - 1, first, count, along_x * factor, space)
                if grad_mask.values.size:
                    scatter(grad_mask, place, first, count, value, space)
                at += np.uint64(PLANE * len(grid.planes))
                place += 1


@compiled
def backward(
    grid,
    x,
    offset,
    mask,
    weight,
    grad_y,
    first,
    last,
    low,
    high,
    grad_x,
    grad_offset,
    grad_mask,
    result,
    version=VERSION,
):
    """Gradients of `forward` from the channels `low` to `high`; that of x is added to what is there.

    `result` is, with a weight, its gradient, added to what is there; without one, the columns once more. Columns are
    those of these channels alone. Gradients that are None are left out; that of the mask goes with the offset's.
    """
    start, moved, share, rows, dots = scratch(grid, x)
    space = np.empty(BLOCK, x.dtype)
    width, pitch = grid.channels // grid.offset_groups, high - low
    step = grid.channels if weight is not None else points_of(grid) * pitch
    for begin in range(first, last, BLOCK):
        count = min(BLOCK, last - begin)
        set_start(grid, begin, count, start)
        for group in range(low // width, (high - 1) // width + 1):
            locate(grid, group, offset, mask, begin, count, start, moved, share, rows)
            if grad_offset is not None:
                dots[:] = 0
            lead = group * width
            at = begin * step + lead if weight is not None else (begin - first) * step + lead - low
            n, end = np.uint64(max(low - lead, 0)), np.uint64(min(high - lead, width))
            while n + np.uint64(WIDE) <= end:
                spread_wide(
                    grid,
                    x,
                    share,
                    rows,
                    dots,
                    count,
                    n,
                    weight,
                    lead,
                    grad_y,
                    at,
                    step,
                    pitch,
                    grad_x,
                    grad_offset,
                    result,
                )
                n += np.uint64(WIDE)
            while n + np.uint64(LANES) <= end:
                spread_lanes(
                    grid,
                    x,
                    share,
                    rows,
                    dots,
                    count,
                    n,
                    weight,
                    lead,
                    grad_y,
                    at,
                    step,
                    pitch,
                    grad_x,
                    grad_offset,
                    result,
                )
                n += np.uint64(LANES)
            while n < end:
                spread_one(
                    grid,
                    x,
                    share,
                    rows,
                    dots,
                    count,
                    n,
                    weight,
                    lead,
                    grad_y,
                    at,
                    step,
                    pitch,
                    grad_x,
                    grad_offset,
                    result,
                )
                n += np.uint64(1)
            if grad_offset is not None:
                set_slopes(grid, group, offset, mask, begin, count, start, moved, dots, grad_offset, grad_mask, space)
