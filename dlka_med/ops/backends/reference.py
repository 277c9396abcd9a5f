"""Deformable convolution in plain PyTorch, in any number of dims, on any device: the definition."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dlka_med.ops.geometry import Geometry


def why_not(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> None:
    """None: the reference computes everything."""


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
    rows = padded_rows(x.to(dtype), geometry)
    index, share = corners(x.shape, offset.to(dtype), geometry)
    if mask is not None:
        share = share * points_last(mask.to(dtype), geometry, 1)
    if weight is None:
        y = weighted_sums(rows, index.flatten(-2), share.flatten(-2))
    else:
        sampled = weighted_sums(rows, index.transpose(-3, -2), share.transpose(-3, -2))
        y = product(sampled.flatten(-2), weight.to(dtype), geometry)
    y = y.reshape(x.shape[0], *offset.shape[2:], x.shape[1] if weight is None else weight.shape[0])
    if bias is not None:
        y = y + bias.to(dtype)
    return y.to(x.dtype).movedim(-1, 1)


def padded_rows(x: Tensor, geometry: Geometry) -> Tensor:
    """The voxels of `x` as a table `(B * voxels * G, C / G)`, with a border of zeros.

    One voxel before and two behind each axis: every corner of a cell that touches `x` then exists, and so
    does a cell of zeros at position S for all points that do not.
    """
    border = (1, 2) * geometry.spatial_dims
    return F.pad(x.movedim(1, -1), (0, 0, *border)).reshape(-1, x.shape[1] // geometry.offset_groups)


def points_last(values: Tensor, geometry: Geometry, entries: int) -> Tensor:
    """`(B, G*K*entries, *S')` as `(B, *S', G, K, entries)`."""
    return values.movedim(1, -1).unflatten(-1, (geometry.offset_groups, geometry.points, entries))


def corners(shape: torch.Size, offset: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Rows of the padded table at the `2**d` corners around every kernel point, and their linear weights.

    Both are `(B, *S', G, K, 2**d)`. A point that touches no voxel (NaN included) reads zeros and has no
    gradient.
    """
    dims, device, integer = geometry.spatial_dims, offset.device, index_dtype(shape)
    offset = points_last(offset, geometry, dims)
    taps = torch.tensor(geometry.kernel_points, dtype=offset.dtype, device=device)
    first = torch.arange(shape[0], dtype=integer, device=device).reshape(-1, *[1] * (dims + 2))
    steps, sides = [0], []
    for axis, size in enumerate(shape[2:]):
        start = torch.arange(offset.shape[1 + axis], dtype=offset.dtype, device=device)
        start = start * geometry.stride[axis] - geometry.padding[axis]
        position = offset[..., axis] + (start.reshape(-1, *[1] * (dims - axis + 1)) + taps[:, axis])
        position = position.masked_fill(~((position > -1) & (position < size)), size)
        cell = position.detach().floor()
        behind = position - cell
        sides.append((1 - behind, behind))
        first = first * (size + 3) + (cell + 1).to(integer)
        steps = [step * (size + 3) + side for step in steps for side in (0, 1)]
    groups = geometry.offset_groups
    first = first * groups + torch.arange(groups, dtype=integer, device=device).reshape(-1, 1)
    index = torch.stack([first + step * groups for step in steps], -1)
    share = torch.stack([math.prod(parts[1:], start=parts[0]) for parts in itertools.product(*sides)], -1)
    return index, share


def index_dtype(shape: torch.Size) -> torch.dtype:
    """32 bits, which halve the time, where they hold every row; 64 in a traced graph, good for any size."""
    if torch.compiler.is_compiling():
        return torch.int64
    rows = shape[0] * shape[1]
    for size in shape[2:]:
        rows *= size + 3
    return torch.int32 if rows < torch.iinfo(torch.int32).max else torch.int64


def weighted_sums(rows: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """`sum(rows[index] * share)` over the last axis, without the tensor `rows[index]`."""
    sums = F.embedding_bag(
        index.reshape(-1, index.shape[-1]),
        rows,
        per_sample_weights=share.reshape(-1, index.shape[-1]),
        mode="sum",
    )
    return sums.reshape(*index.shape[:-1], rows.shape[1])


def product(sampled: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """`(B, *S', K, C)` sampled values times the weight `(O, C/groups, *kernel)`, with `O` last."""
    weight = weight.flatten(2)
    if geometry.groups == sampled.shape[-1] == weight.shape[0]:
        return (sampled * weight[:, 0].T).sum(-2)
    sampled = sampled.unflatten(-1, (geometry.groups, -1)).movedim(-2, 0).flatten(-2).flatten(1, -2)
    weight = weight.transpose(1, 2).unflatten(0, (geometry.groups, -1)).flatten(2)
    return (sampled @ weight.mT).transpose(0, 1).flatten(1)
