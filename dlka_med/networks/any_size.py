"""What makes a network that takes multiples of some size take images of any size."""

import operator
from collections.abc import Sequence
from math import prod
from numbers import Integral

from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.blocks.dims import check_spatial_dims

Steps = tuple[int, ...]


class AnySizeNetwork(nn.Module):
    """Pads the image, asks `_logits` and crops; what a network of this package has beside its layers.

    Zeros stand at the far end of each axis, as in the D-LKA networks, so that a comparison with them differs in the
    network alone; a standardised image has its mean there, and what convolutions pad with.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        size_unit: sizes inside are multiples of it, per axis.
        scale_strides: image voxels per voxel of each output of `forward_pyramid`, per axis, full to coarse.
        least_units: units that the padded image has at least, along its longest axis if need be. A norm of single
            images needs two: there is no deviation of one voxel.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        size_unit: Sequence[int],
        scale_strides: Sequence[Sequence[int]],
        least_units: int = 1,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_positive(in_channels=in_channels, out_channels=out_channels)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.size_unit: Steps = tuple(size_unit)
        self.scale_strides: list[Steps] = [tuple(steps) for steps in scale_strides]
        self.least_units = least_units

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, out_channels, *S)` of the image x `(B, in_channels, *S)`.

        Raises:
            ValueError: if x has another number of axes or channels.
        """
        return crop(self._logits(self._padded(x), 1)[0], x.shape[2:])

    def forward_pyramid(self, x: Tensor) -> list[Tensor]:
        """Logits of the supervised scales, full to coarse; of a network that has one alone, what `forward` returns.

        Each is at its own resolution: for a scale of stride s its size is ceil(n / s) along an axis of n voxels, and
        its voxel i covers the image's voxels [i * s, (i + 1) * s), of which the last may lie partly outside. The
        first is what `forward` returns.

        Raises:
            ValueError: if x has another number of axes or channels.
        """
        maps = self._logits(self._padded(x), len(self.scale_strides))
        return [
            crop(logits, [-(-n // step) for n, step in zip(x.shape[2:], steps, strict=True)])
            for logits, steps in zip(maps, self.scale_strides, strict=True)
        ]

    def _logits(self, x: Tensor, scales: int) -> list[Tensor]:
        """Logits of the finest scales, full to coarse, of an image whose sizes are multiples of `size_unit`."""
        raise NotImplementedError

    def _padded(self, image: Tensor) -> Tensor:
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.in_channels:
            axes = {2: "height, width", 3: "x, y, z"}[self.spatial_dims]
            raise ValueError(
                f"expected an image of shape (batch, {self.in_channels}, {axes}), got {tuple(image.shape)}; "
                f"the network was built with in_channels={self.in_channels}"
            )
        size = image.shape[2:]
        units = [-(-n // unit) for n, unit in zip(size, self.size_unit, strict=True)]
        if prod(units) < self.least_units:
            units[max(range(len(size)), key=lambda axis: size[axis])] = self.least_units
        pads = [count * unit - n for count, unit, n in zip(units, self.size_unit, size, strict=True)]
        return F.pad(image, [n for pad in reversed(pads) for n in (0, pad)]) if any(pads) else image


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The near corner of x `(B, C, *S)`, of this size."""
    return x[(..., *(slice(n) for n in size))]


def steps_per_axis(strides: Sequence[int | Sequence[int]], spatial_dims: int) -> tuple[Steps, ...]:
    """Steps of each axis for each stage; an integer stands for all axes.

    Raises:
        ValueError: if a stage has no, or not as many, positive whole numbers.
    """
    check_spatial_dims(spatial_dims)
    axes = {2: "two", 3: "three"}[spatial_dims]
    try:
        stages = [(stride,) * spatial_dims if isinstance(stride, Integral) else tuple(stride) for stride in strides]
        steps = tuple(tuple(operator.index(step) for step in stage) for stage in stages)
    except TypeError as error:
        raise ValueError(f"strides needs one or {axes} whole numbers for each stage, got {strides!r}") from error
    for stage in steps:
        if len(stage) != spatial_dims or min(stage) < 1:
            raise ValueError(f"each entry of strides needs {axes} positive steps, got {stage}")
    return steps


def strides_up_to(strides: Sequence[Steps], spatial_dims: int) -> list[Steps]:
    """Products of the first 0, 1, ... strides, per axis."""
    return [
        tuple(prod(stride[axis] for stride in strides[:stages]) for axis in range(spatial_dims))
        for stages in range(len(strides) + 1)
    ]


def check_positive(**sizes: int) -> None:
    """Raise `ValueError` with the name of a number that is less than 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_each_positive(**lists: Sequence[int]) -> None:
    """Raise `ValueError` with the name of a list that holds no numbers, or one that is less than 1."""
    for name, values in lists.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name} must be positive, got {tuple(values)}")


def check_scales(supervised_scales: int, most: int) -> None:
    """Raise `ValueError` unless `supervised_scales` is 1 to `most`."""
    if not 1 <= supervised_scales <= most:
        raise ValueError(f"supervised_scales must be 1 to {most}, got {supervised_scales}")
