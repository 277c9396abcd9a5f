"""Small problems that every backend must solve, 1D to 3D, and their solution by nested loops."""

from dataclasses import dataclass

import numpy as np
import torch

from dlka_med.ops import deform_conv
from dlka_med.ops.geometry import Geometry

from .oracle import deform_conv_loops


@dataclass(frozen=True)
class Case:
    """One problem; `channels` are those of x and, unless 0 (weight=None), those of the result."""

    size: tuple[int, ...]
    channels: tuple[int, int]
    kernel: int | tuple[int, ...] = 3
    stride: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] = 1
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    offset_groups: int = 1
    mask: bool = False
    bias: bool = False

    @property
    def geometry(self):
        settings = (self.kernel, self.stride, self.padding, self.dilation, self.groups, self.offset_groups)
        return Geometry.of(len(self.size), *settings)

    @property
    def settings(self):
        """The keyword arguments of `deform_conv` that are no tensors."""
        names = ("stride", "padding", "dilation", "groups", "offset_groups")
        return {name: getattr(self, name) for name in names} | {"kernel_size": self.kernel}

    def tensors(self, dtype=torch.float64, spread=1.5, batch=2):
        """Random x, offset, weight, bias and mask, by name, on the default device; absent ones are None."""
        draw = torch.Generator().manual_seed(0)
        geometry, (inputs, outputs) = self.geometry, self.channels
        out, points = geometry.output_size(self.size), geometry.points * self.offset_groups

        def normal(*shape):
            values = torch.randn(shape, generator=draw, dtype=torch.float64, device="cpu")
            return values.to(torch.get_default_device(), dtype)

        return {
            "x": normal(batch, inputs, *self.size),
            "offset": spread * normal(batch, points * geometry.spatial_dims, *out),
            "weight": normal(outputs, inputs // self.groups, *geometry.kernel_size) if outputs else None,
            "bias": normal(outputs or inputs) if self.bias else None,
            "mask": normal(batch, points, *out) if self.mask else None,
        }

    def run(self, tensors, backend=None):
        return deform_conv(**tensors, **self.settings, backend=backend)

    def solve(self, tensors):
        """The result by nested loops in float64."""
        geometry = self.geometry
        arrays = (None if t is None else t.detach().double().cpu().numpy() for t in tensors.values())
        settings = (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
        y = deform_conv_loops(*arrays, *settings, geometry.groups, geometry.offset_groups)
        return torch.from_numpy(np.asarray(y)).to(torch.get_default_device())


CASES = {
    "1d": Case((9,), (4, 6), bias=True, mask=True, groups=2, offset_groups=4),
    "2d dense": Case((5, 7), (3, 4)),
    "2d dense strided": Case((7, 6), (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 2), bias=True, mask=True),
    "2d even kernel": Case((5, 4), (2, 2), kernel=(2, 4), padding=(1, 2)),
    "2d grouped": Case((5, 4), (6, 4), groups=2, bias=True),
    "2d groups that cross": Case((4, 5), (6, 9), groups=3, offset_groups=2, mask=True),
    "2d depthwise": Case((6, 5), (4, 4), kernel=5, padding=2, groups=4),
    "2d depthwise offset groups": Case((3, 4), (4, 4), kernel=(2, 1), groups=4, offset_groups=4, mask=True),
    "2d depthwise multiplied": Case((4, 5), (3, 6), groups=3, bias=True),
    "2d no weight": Case((5, 4), (4, 0), offset_groups=2, mask=True),
    "3d dense": Case((3, 5, 4), (2, 3), bias=True),
    "3d dense strided": Case((5, 3, 6), (2, 2), stride=(2, 1, 3), padding=(1, 0, 2), mask=True),
    "3d grouped": Case((3, 2, 4), (4, 2), groups=2, offset_groups=2, kernel=(1, 2, 3), padding=(0, 1, 1)),
    "3d depthwise": Case((4, 3, 5), (3, 3), groups=3, dilation=2, padding=2, mask=True, bias=True),
    "3d depthwise plain": Case((4, 3, 2), (2, 2), groups=2),
    "3d no weight": Case((3, 4, 2), (2, 0), bias=True, stride=(1, 2, 1)),
    "3d one point": Case((3, 4, 2), (2, 3), kernel=1, padding=0),
}
