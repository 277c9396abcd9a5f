"""Where the CPU kernels read: the cells around all kernel points of a block of output positions.

The positions of a block lie side by side in a vector. Spatial axes are three throughout: fewer are preceded by
axes of size 1, and a cell has one plane of four corners in 1D and 2D, two planes in 3D.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numba
import numpy as np
from numba.core.compiler import Compiler

from dlka_med.ops.backends.numba_vectors import (
    FASTMATH,
    both,
    choose,
    floats,
    floor,
    integers,
    load,
    splat,
    store,
)
from dlka_med.ops.geometry import Geometry

BLOCK = 16
PLANE = 4 * BLOCK
NOWHERE = np.uint32(2**32 - 1)


class Grid(NamedTuple):
    """Voxels per axis of input and output, the kernel's geometry, and the numbers of groups and channels.

    `planes` has one entry per plane of corners: its length is known to the compiler.
    """

    spatial_dims: int
    planes: tuple[int, ...]
    size: tuple[int, int, int]
    out: tuple[int, int, int]
    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    dilation: tuple[int, int, int]
    offset_groups: int
    channels: int

    @classmethod
    def of(cls, geometry: Geometry, size: Sequence[int], out: Sequence[int], channels: int) -> Grid:
        """That of a convolution of images of shape `size`."""
        dims = geometry.spatial_dims
        lead = (1,) * (3 - dims)
        return cls(
            dims,
            (0,) * (2 if dims == 3 else 1),
            (*lead, *size),
            (*lead, *out),
            lead + geometry.kernel_size,
            lead + geometry.stride,
            (0,) * len(lead) + geometry.padding,
            lead + geometry.dilation,
            geometry.offset_groups,
            channels,
        )


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


OPTIONS = {"nogil": True, "pipeline_class": NoAlias, "error_model": "numpy", "fastmath": set(FASTMATH)}


def compiled(function: Callable) -> Callable:
    """`function` compiled at its first call, kept on disk where a folder for that can be written."""
    try:
        return numba.njit(function, cache=True, **OPTIONS)
    except RuntimeError:
        warnings.warn(
            "dlka_med: no folder for compiled kernels can be written, so that every process compiles them anew; "
            "name one in the environment variable NUMBA_CACHE_DIR",
            stacklevel=2,
        )
        return numba.njit(function, **OPTIONS)


def inlined(function: Callable) -> Callable:
    """`function` compiled into its callers."""
    return numba.njit(function, forceinline=True, **OPTIONS)


@inlined
def points_of(grid):
    """Number of kernel points."""
    return grid.kernel_size[0] * grid.kernel_size[1] * grid.kernel_size[2]


@inlined
def scratch(grid, like):
    """Of one block: places of the output positions, offsets and mask, shares, rows and inner products."""
    corners = points_of(grid) * PLANE * len(grid.planes)
    return (
        np.zeros(3 * BLOCK, np.int32),
        np.zeros(4 * BLOCK, like.dtype),
        np.empty(corners, like.dtype),
        np.empty(corners, np.uint32),
        np.empty(corners, like.dtype),
    )


@inlined
def set_start(grid, first, count, start):
    """Place of the first kernel point, without its offset, of `count` output positions."""
    x = first % grid.out[2]
    y = first // grid.out[2] % grid.out[1]
    z = first // grid.out[2] // grid.out[1]
    for i in range(count):
        start[i] = z * grid.stride[0] - grid.padding[0]
        start[BLOCK + i] = y * grid.stride[1] - grid.padding[1]
        start[2 * BLOCK + i] = x * grid.stride[2] - grid.padding[2]
        x += 1
        if x == grid.out[2]:
            x = 0
            y += 1
            if y == grid.out[1]:
                y = 0
                z += 1


@inlined
def gather(tensor, channel, first, count, into, begin):
    """Copy some positions of one channel."""
    place = np.uint64(tensor.first + channel * tensor.channel + first * tensor.position)
    if tensor.position == 1 and count == BLOCK:
        store(into, np.uint64(begin), load(tensor.values, place, BLOCK))
    else:
        for i in range(np.uint64(count)):
            into[np.uint64(begin) + i] = load(tensor.values, place + i * np.uint64(tensor.position), 1)


@inlined
def scatter(tensor, channel, first, count, vector, space):
    """Write some positions of one channel."""
    place = np.uint64(tensor.first + channel * tensor.channel + first * tensor.position)
    if tensor.position == 1 and count == BLOCK:
        store(tensor.values, place, vector)
    else:
        store(space, np.uint64(0), vector)
        for i in range(np.uint64(count)):
            tensor.values[place + i * np.uint64(tensor.position)] = space[i]


@inlined
def along(axis, size, tap, start, moved):
    """Along one axis, for one kernel point of a block of positions.

    Whether the point touches a voxel; the shares of the voxels before and behind it; whether these exist, as one
    or zero; their indices, that of a voxel outside being its neighbour's.
    """
    number = moved.dtype.type
    zero, one = splat(number(0), BLOCK), splat(number(1), BLOCK)
    end = splat(number(size) if size > 0 else number(-1), BLOCK)
    at = np.uint64(axis * BLOCK)
    position = load(moved, at, BLOCK) + floats(load(start, at, BLOCK) + splat(np.int32(tap), BLOCK), moved)
    touches = both(zero - one < position, position < end)
    position = choose(touches, position, zero)
    low = floor(position)
    high, behind = low + one, position - low
    has_low, has_high = choose(low < zero, zero, one), choose(high < end, one, zero)
    before, after = integers(choose(low < zero, zero, low)), integers(choose(high < end, high, low))
    return touches, has_low * (one - behind), has_high * behind, has_low, has_high, before, after


@inlined
def fetch(grid, offset, mask, place, first, count, moved):
    """Offsets and mask of one kernel point of a block of positions; the mask as a vector, one where there is none."""
    for own in range(grid.spatial_dims):
        axis = own + 3 - grid.spatial_dims
        gather(offset, place * grid.spatial_dims + own, first, count, moved, axis * BLOCK)
    if mask.values.size == 0:
        return splat(moved.dtype.type(1), BLOCK)
    gather(mask, place, first, count, moved, 3 * BLOCK)
    return load(moved, np.uint64(3 * BLOCK), BLOCK)


@inlined
def set_plane(at, factor, row, y, x, pitch_y, pitch_x, share, rows):
    """Shares (times a factor) and rows of the four corners in one plane."""
    low, high = y[1] * factor, y[2] * factor
    low_row, high_row = y[5] * pitch_y + row, y[6] * pitch_y + row
    before, after = x[5] * pitch_x, x[6] * pitch_x
    store(share, at, low * x[1])
    store(share, at + np.uint64(BLOCK), low * x[2])
    store(share, at + np.uint64(2 * BLOCK), high * x[1])
    store(share, at + np.uint64(3 * BLOCK), high * x[2])
    store(rows, at, low_row + before)
    store(rows, at + np.uint64(BLOCK), low_row + after)
    store(rows, at + np.uint64(2 * BLOCK), high_row + before)
    store(rows, at + np.uint64(3 * BLOCK), high_row + after)


@inlined
def locate(grid, group, offset, mask, first, count, start, moved, share, rows):
    """Shares (linear weights times the mask) and rows of the corners around all kernel points of a block.

    A row is the place of the group's first channel in the image. A corner outside has no share and repeats its
    neighbour's row; the first row of a point that touches no voxel is `NOWHERE`.
    """
    lead = splat(np.uint32(group * (grid.channels // grid.offset_groups)), BLOCK)
    pitch_x = splat(np.uint32(grid.channels), BLOCK)
    pitch_y = splat(np.uint32(grid.channels * grid.size[2]), BLOCK)
    pitch_z = splat(np.uint32(grid.channels * grid.size[2] * grid.size[1]), BLOCK)
    at, place = np.uint64(0), group * points_of(grid)
    for tap_z in range(0, grid.kernel_size[0] * grid.dilation[0], grid.dilation[0]):
        for tap_y in range(0, grid.kernel_size[1] * grid.dilation[1], grid.dilation[1]):
            for tap_x in range(0, grid.kernel_size[2] * grid.dilation[2], grid.dilation[2]):
                factor = fetch(grid, offset, mask, place, first, count, moved)
                x = along(2, grid.size[2], tap_x, start, moved)
                y = along(1, grid.size[1], tap_y, start, moved)
                touches = both(x[0], y[0])
                if len(grid.planes) == 1:
                    set_plane(at, factor, lead, y, x, pitch_y, pitch_x, share, rows)
                else:
                    z = along(0, grid.size[0], tap_z, start, moved)
                    touches = both(touches, z[0])
                    set_plane(at, factor * z[1], z[5] * pitch_z + lead, y, x, pitch_y, pitch_x, share, rows)
                    above = at + np.uint64(PLANE)
                    set_plane(above, factor * z[2], z[6] * pitch_z + lead, y, x, pitch_y, pitch_x, share, rows)
                store(rows, at, choose(touches, load(rows, at, BLOCK), splat(NOWHERE, BLOCK)))
                at += np.uint64(PLANE * len(grid.planes))
                place += 1
