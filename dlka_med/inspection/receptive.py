"""How far around a voxel of its output a network looks: by its structure, and by the gradient of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dlka_med.blocks.norm import InstanceNorm
from dlka_med.layers import deformable_layers, without_offsets

NORMS = (
    InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)
STRIP, MOST = 64, 2**19  # units of the first strip that is tried, and voxels of the longest
SHARE = 0.95


def theoretical_field(network: nn.Module, channels: int, unit: Sequence[int]) -> list[int | None]:
    """Voxels along each axis that an output voxel depends on, where no kernel point moves.

    Every axis is looked at in a strip of the image as thin as the network takes, through which a gradient flows with
    positive weights, so that nothing cancels. Norms are left out: what they know of a whole image is not counted.
    The voxel stands at the border of two units; others can see up to a unit more.

    Args:
        network: it loses its weights.
        channels: of the image.
        unit: sizes of an image are multiples of it, per axis.

    Returns:
        One number per axis; None: more than the longest strip, or everything.
    """
    network = network.cpu().float().eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            fan_in = max(parameter[0].numel() if parameter.ndim > 1 else 1, 1)
            parameter.copy_((0.5 + torch.rand_like(parameter)) / fan_in if not name.endswith("bias") else parameter * 0)
    with _without_norms(network), without_offsets(network):
        return [_along(network, channels, unit, axis) for axis in range(len(unit))]


def longest_strip(unit: Sequence[int]) -> list[int]:
    """Voxels of the longest strip along each axis that `theoretical_field` tries."""
    return [MOST // prod(unit) * step for step in unit]


def reach_of_offsets(network: nn.Module, strides: dict[str, tuple[float, ...]], dims: int) -> list[float | None]:
    """By how many image voxels, along each axis, offsets can widen the field at most; None: without limit.

    The longest way through a network passes all its deformable layers, each of which adds its limit at both sides.

    Args:
        strides: image voxels per voxel of each layer's input.
    """
    total = [0.0] * dims
    for name, layer in deformable_layers(network).items():
        if layer.offset_limit is None:
            return [None] * dims
        total = [n + 2 * layer.offset_limit * step for n, step in zip(total, strides[name], strict=True)]
    return total


def gradient(network: nn.Module, image: Tensor, place: Sequence[int], output: int) -> NDArray[np.float64]:
    """Size of the gradient (*S) of one logit in a voxel by the image (C, *S), summed over the channels.

    The effective receptive field (Luo et al., NIPS 2016, section 2), of one image and one voxel.
    """
    image = image[None].detach().clone().requires_grad_()
    modes = {part: part.training for part in network.modules()}
    try:
        logit = network.eval()(image)[(0, output, *place)]
        (found,) = torch.autograd.grad(logit, image)
    finally:
        for part, training in modes.items():
            part.training = training
    return found[0].abs().sum(0).double().cpu().numpy()


def radius(field: NDArray, place: Sequence[int], spacing: Sequence[float], share: float = SHARE) -> float:
    """In mm about `place`: within it lies this share of the field; NaN of a field of zeros."""
    axes = [(np.arange(n) - at) * step for n, at, step in zip(field.shape, place, spacing, strict=True)]
    distance = np.sqrt(sum(np.square(grid) for grid in np.meshgrid(*axes, indexing="ij"))).ravel()
    order = np.argsort(distance, kind="stable")
    summed = np.cumsum(field.ravel()[order])
    if not summed[-1] > 0:
        return float("nan")
    return float(distance[order][np.searchsorted(summed, share * summed[-1])])


def widths(field: NDArray, place: Sequence[int], share: float = SHARE) -> list[int]:
    """Voxels along each axis, as many on both sides of `place`, that hold this share of the field; 0 of zeros."""
    found = []
    for axis, at in enumerate(place):
        along = field.sum(tuple(other for other in range(field.ndim) if other != axis))
        far = np.abs(np.arange(len(along)) - at)
        summed = np.array([along[far <= n].sum() for n in range(len(along))])
        found.append(int(2 * np.searchsorted(summed, share * along.sum() * (1 - 1e-9)) + 1) if along.sum() > 0 else 0)
    return found


def _along(network: nn.Module, channels: int, unit: Sequence[int], axis: int) -> int | None:
    units, most = STRIP, longest_strip(unit)[axis] // unit[axis]
    while True:
        units = min(units, most)
        length = units * unit[axis]
        image = torch.ones(1, channels, *(n if index != axis else length for index, n in enumerate(unit)))
        output = network(image.requires_grad_())[0, 0].movedim(axis, 0)[length // 2].sum()
        (found,) = torch.autograd.grad(output, image)
        seen = found[0].abs().sum(0).movedim(axis, 0).flatten(1).sum(1).nonzero()
        first, last = int(seen.min()), int(seen.max())
        if first > 0 and last < length - 1:
            return last - first + 1
        if units == most:
            return None
        units *= 4


class _Passing(torch.autograd.Function):
    """Ones, and a gradient of one wherever there is any: numbers of a deep network neither overflow nor vanish."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return (grad != 0).to(grad.dtype)


@contextmanager
def _without_norms(network: nn.Module) -> Iterator[None]:
    """Norms pass on what depends on what."""
    norms = [part for part in network.modules() if isinstance(part, NORMS)]
    try:
        for part in norms:
            part.forward = _Passing.apply
        yield
    finally:
        for part in norms:
            del part.forward
