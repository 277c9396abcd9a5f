"""Offsets that stay small, and kernel points that stay in the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlka_med.ops.geometry import Geometry


def bounded(
    offset: Tensor, geometry: Geometry, size: Sequence[int], limit: float | None, spread: Tensor | None = None
) -> Tensor:
    """Offsets of at most `limit` voxels that carry no kernel point out of the image, plus `spread`.

    First `limit * tanh(offset / limit)`. A kernel point that would then pass the outermost voxel stops there; one
    that lies outside by itself may only come inward or stay. Points outside the image read zero and pass no
    gradient back: a layer whose points have all left it cannot recover.

    Args:
        offset: `(B, G*K*d, *S')`, as for `deform_conv`.
        size: spatial shape S of the layer's input.
        limit: None: there is neither limit nor border.
        spread: `(G*K*d,)`, where the kernel points are before they move, relative to those of `geometry`.
    """
    if limit is None and spread is None:
        return offset
    # Half precision could not tell the voxels of a large image apart.
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
    home = 0.0 if spread is None else spread.to(offset.dtype).view(-1, *[1] * geometry.spatial_dims)
    if limit is None:
        return offset + home
    back, forth = way_to_borders(geometry, size, offset.shape[2:], offset.dtype, offset.device)
    return (limit * torch.tanh(offset / limit) + home).clamp(back.clamp(max=home), forth.clamp(min=home))


def way_to_borders(
    geometry: Geometry, size: Sequence[int], output_size: Sequence[int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """From each kernel point to the first and to the last voxel of each axis, `(G*K*d, *S')` each."""
    dims, back, forth = geometry.spatial_dims, [], []
    for position, extent in zip(kernel_positions(geometry, output_size, dtype, device), size, strict=True):
        position = position.expand(*geometry.kernel_size, *output_size)
        back.append(-position)
        forth.append(extent - 1 - position)
    repeats = (geometry.offset_groups, *[1] * dims)
    return tuple(torch.stack(ways, dims).flatten(0, dims).repeat(repeats) for ways in (back, forth))


def kernel_positions(
    geometry: Geometry, output_size: Sequence[int], dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Coordinates of the kernel points before they move; one tensor per axis, broadcasting to `(*kernel, *S')`."""
    dims, positions = geometry.spatial_dims, []
    for axis, extent in enumerate(output_size):
        points = torch.arange(geometry.kernel_size[axis], dtype=dtype, device=device) * geometry.dilation[axis]
        places = torch.arange(extent, dtype=dtype, device=device) * geometry.stride[axis] - geometry.padding[axis]
        shape = [1] * (2 * dims)
        shape[axis], shape[dims + axis] = len(points), extent
        positions.append((points[:, None] + places).reshape(shape))
    return positions
