"""DCNv3 and DCNv4 as layers: each group of channels is summed up at points that move with the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlka_med.layers.bounds import bounded
from dlka_med.layers.centered import CenteredDepthwise, at_centers
from dlka_med.ops import deform_conv
from dlka_med.ops.geometry import Geometry, per_axis
from dlka_med.ops.layout import channels_last

OF_THE_VALUES = ("input_proj", "output_proj", "center_scale")
ORIGINAL_NAMES = {"dw_conv.conv.": "dw_conv.0.", "norm.": "dw_conv.1.1.", "center_scale.": "center_feature_scale_proj_"}


class DeformAggregation(nn.Module):
    """What DCNv3 and DCNv4 share; the two say how offsets and modulation come from the input.

    The values are a linear map of the input. An output channel is the sum of its values at the kernel points of
    its group, each times its modulation; a linear map of the channels follows.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | Sequence[int] = 3,
        dw_kernel_size: int | Sequence[int] | None = None,
        stride: int | Sequence[int] = 1,
        pad: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        center_feature_scale: bool = False,
        spatial_dims: int = 2,
        offset_limit: float | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims: expected 2 or 3, got {spatial_dims!r}")
        padding = per_axis("pad", pad, spatial_dims, 0)
        group = per_axis("group", group, 1, 1)[0]
        check_channels(channels, group)
        if not offset_scale > 0:
            raise ValueError(f"offset_scale: expected a positive number, got {offset_scale!r}")
        if offset_limit is not None and not offset_limit > 0:
            raise ValueError(f"offset_limit: expected a positive number of voxels, got {offset_limit!r}")
        self.geometry = Geometry.of(spatial_dims, kernel_size, stride, padding, dilation, offset_groups=group)
        self.channels = channels
        self.offset_scale, self.offset_limit = offset_scale, offset_limit
        if dw_kernel_size is not None:
            dw_kernel_size = per_axis("dw_kernel_size", dw_kernel_size, spatial_dims, 1)
        self.add_predictors(dw_kernel_size)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.center_scale = nn.Linear(channels, group) if center_feature_scale else None
        self.register_buffer("spread", spread(self.geometry, offset_scale), persistent=False)
        self.reset_parameters()

    def add_predictors(self, dw_kernel_size: tuple[int, ...] | None) -> None:
        """Add the layers that offsets and modulation come from."""
        raise NotImplementedError

    def predictors(self) -> tuple[nn.Linear, ...]:
        """The layers whose output is offsets and modulation; they start at zero."""
        raise NotImplementedError

    def offset_predictor(self) -> tuple[nn.Linear, slice]:
        """The layer whose output holds the offsets, and the channels that they are."""
        raise NotImplementedError

    @property
    def predicting(self) -> tuple[str, ...]:
        """Names of the parts that offsets and modulation are computed by."""
        return tuple(name for name, _ in self.named_children() if name not in OF_THE_VALUES)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets and modulation for `deform_conv`, and the features `(B, *S', C)` that they come from."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """The published start: projections by Xavier without bias; offsets, modulation and centre's share at zero."""
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (*self.predictors(), self.center_scale):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def predict_offsets(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets in voxels `(B, G*K*d, *S')` and modulation `(B, G*K, *S')`, for `deform_conv`."""
        return self.predict(self.checked(x))[:2]

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, *S)` to `(B, channels, *S')`.

        Raises:
            ValueError: x has other axes or channels, or is too small for the kernel.
        """
        x = self.checked(x)
        offset, mask, features = self.predict(x)
        values = over_channels(self.input_proj, x)
        y = deform_conv(
            values,
            offset,
            None,
            mask=mask,
            stride=self.geometry.stride,
            padding=self.geometry.padding,
            dilation=self.geometry.dilation,
            offset_groups=self.geometry.offset_groups,
            kernel_size=self.geometry.kernel_size,
        )
        if self.center_scale is not None:
            share = torch.sigmoid(self.center_scale(features))
            share = share.repeat_interleave(self.channels // self.geometry.offset_groups, -1).movedim(-1, 1)
            y = y + share * (at_centers(values, self.geometry) - y)
        return over_channels(self.output_proj, y)

    def checked(self, x: Tensor) -> Tensor:
        """`x` with the channels innermost in memory; a ValueError where it is no image for this layer."""
        geometry = self.geometry
        if x.ndim != geometry.spatial_dims + 2 or x.shape[1] != self.channels:
            raise ValueError(
                f"x: expected shape (batch, {self.channels}, *spatial) with {geometry.spatial_dims} spatial axes, "
                f"got {tuple(x.shape)}"
            )
        if any(size < 1 for size in geometry.output_size(x.shape[2:])):
            raise ValueError(
                f"x: expected a spatial shape that holds the kernel {geometry.kernel_size} (dilation "
                f"{geometry.dilation}, padding {geometry.padding}), got {tuple(x.shape[2:])}"
            )
        return channels_last(x)

    def in_voxels(self, offset: Tensor, size: Sequence[int]) -> Tensor:
        """Predicted offsets `(B, *S', G*K*d)` of an input of spatial shape `size` as `deform_conv` takes them."""
        if self.offset_scale != 1:
            offset = self.offset_scale * offset
        return bounded(offset.movedim(-1, 1), self.geometry, size, self.offset_limit, self.spread)

    def extra_repr(self) -> str:
        """The arguments, for `print`."""
        settings = {name: value for name, value in vars(self.geometry).items() if name != "groups"}
        settings |= {"offset_scale": self.offset_scale, "offset_limit": self.offset_limit}
        return f"{self.channels}, " + ", ".join(f"{name}={value}" for name, value in settings.items())


class DCNv3(DeformAggregation):
    """Deformable convolution v3 (Wang et al., InternImage, CVPR 2023, section 3.1), in 2D or 3D.

    `(B, channels, *S)` to `(B, channels, *S')`, `S'` that of a plain convolution; channels-last in memory.
    A depthwise conv of the input, LayerNorm over its channels and GELU give features at every output position.
    Linear maps of them are the offsets of each group's kernel points and their modulation, which a softmax over
    the kernel points makes sum to one. Both start at zero: a new layer averages over its kernel.

    The depthwise conv has no dilation; it is centred where the kernel is (on the voxel before the middle for even
    sizes), also with stride and padding. Offsets and modulation are `G*K*(d + 1)` values per output position,
    `G = group`, `K` kernel points, `d = spatial_dims`: many for a large kernel in 3D.

    Args:
        channels: of input and output.
        kernel_size, stride, dilation: one integer, or one per axis.
        dw_kernel_size: of the depthwise conv, the same; None: `kernel_size`.
        pad: zeros around the values, the same; `dilation * (kernel_size - 1) // 2` keeps the shape at stride 1.
        group: groups of channels that share offsets and modulation.
        offset_scale: factor of the learned offsets and of the kernel points' distance from the kernel's centre.
        center_feature_scale: mix the sum with the value at the kernel's centre, by a learned share per group.
        spatial_dims: 2 or 3.
        offset_limit: learned offsets are kept within this many voxels by `limit * tanh(offset / limit)`, and carry no
            kernel point out of the image (see `dlka_med.layers.bounds`); None: neither.

    Raises:
        TypeError: an argument is not made of integers.
        ValueError: an argument is impossible, or does not fit another.
    """

    def add_predictors(self, dw_kernel_size: tuple[int, ...] | None) -> None:
        points = self.geometry.offset_groups * self.geometry.points
        self.dw_conv = CenteredDepthwise(self.channels, dw_kernel_size or self.geometry.kernel_size, self.geometry)
        self.norm = nn.LayerNorm(self.channels, eps=1e-6)
        self.offset = nn.Linear(self.channels, points * self.geometry.spatial_dims)
        self.mask = nn.Linear(self.channels, points)

    def predictors(self) -> tuple[nn.Linear, ...]:
        return self.offset, self.mask

    def offset_predictor(self) -> tuple[nn.Linear, slice]:
        return self.offset, slice(None)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = F.gelu(self.norm(self.dw_conv(x).movedim(1, -1)))
        mask = self.mask(features).unflatten(-1, (self.geometry.offset_groups, self.geometry.points))
        mask = mask.softmax(-1).flatten(-2).movedim(-1, 1)
        return self.in_voxels(self.offset(features), x.shape[2:]), mask, features

    def load_original(self, state_dict: Mapping[str, Any]) -> None:
        """Take the weights of a DCNv3 module of InternImage (2D, LayerNorm); nothing changes unless all fit.

        There offsets come x before y, and kernel points run over x slowest.

        Args:
            state_dict: original name -> tensor or array, of that module alone.

        Raises:
            ValueError: names or shapes are not those of this layer (the first ones are shown), or it is 3D.
        """
        if self.geometry.spatial_dims != 2:
            raise ValueError(f"load_original: expected a layer of 2 spatial dims, got {self.geometry.spatial_dims}")
        names = {name: original_name(name) for name in self.state_dict()}
        shapes = {names[name]: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        found = {name: torch.as_tensor(value) for name, value in state_dict.items()}
        problems = [f"missing {name}" for name in shapes if name not in found]
        problems += [f"unexpected {name}" for name in found if name not in shapes]
        problems += [
            f"{name} of shape {tuple(found[name].shape)} instead of {shape}"
            for name, shape in shapes.items()
            if name in found and tuple(found[name].shape) != shape
        ]
        if problems:
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ValueError(
                "state_dict: expected that of a DCNv3 module of the same arguments, got "
                + "; ".join(problems[:5])
                + more
            )
        height, width = self.geometry.kernel_size
        for name, values in found.items():
            if name.startswith("offset."):
                by_point = values.unflatten(0, (-1, width, height, 2)).flip(3)
                found[name] = by_point.transpose(1, 2).flatten(0, 3)
            if name.startswith("mask."):
                found[name] = values.unflatten(0, (-1, width, height)).transpose(1, 2).flatten(0, 2)
        self.load_state_dict({name: found[original] for name, original in names.items()})


class DCNv4(DeformAggregation):
    """Deformable convolution v4 (Xiong et al., Efficient Deformable ConvNets, CVPR 2024, section 3.2), in 2D or 3D.

    As `DCNv3`, but the modulation is unbounded, without softmax, and one linear map gives offsets and
    modulation. It reads the input at the kernel's centre, or with `dw_kernel_size` a depthwise conv of the input.
    As published, it starts at zero: a new layer returns zero, and its offsets learn from the second step on.

    Args:
        dw_kernel_size: of the depthwise conv; None: there is none.
        channels, kernel_size, stride, pad, dilation, group, offset_scale, center_feature_scale, spatial_dims,
            offset_limit: see `DCNv3`.

    Raises:
        TypeError: an argument is not made of integers.
        ValueError: an argument is impossible, or does not fit another.
    """

    def add_predictors(self, dw_kernel_size: tuple[int, ...] | None) -> None:
        self.dw_conv = None
        if dw_kernel_size is not None:
            self.dw_conv = CenteredDepthwise(self.channels, dw_kernel_size, self.geometry)
        values = self.geometry.offset_groups * self.geometry.points * (self.geometry.spatial_dims + 1)
        self.offset_mask = nn.Linear(self.channels, values)

    def predictors(self) -> tuple[nn.Linear, ...]:
        return (self.offset_mask,)

    def offset_predictor(self) -> tuple[nn.Linear, slice]:
        return self.offset_mask, slice(self.geometry.offset_groups * self.geometry.points, None)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = at_centers(x, self.geometry) if self.dw_conv is None else self.dw_conv(x)
        features = features.movedim(1, -1)
        points = self.geometry.offset_groups * self.geometry.points
        mask, offset = self.offset_mask(features).tensor_split([points], -1)
        return self.in_voxels(offset, x.shape[2:]), mask.movedim(-1, 1), features


def spread(geometry: Geometry, scale: float) -> Tensor | None:
    """Offsets `(G*K*d,)` that move the kernel points to `scale` times their distance from the centre."""
    if scale == 1:
        return None
    centre = [step * (size - 1) // 2 for size, step in zip(geometry.kernel_size, geometry.dilation, strict=True)]
    points = (scale - 1) * (torch.tensor(geometry.kernel_points) - torch.tensor(centre)).to(torch.get_default_dtype())
    return points.flatten().repeat(geometry.offset_groups)


def check_channels(channels: int, group: int) -> None:
    """Refuse channels that are no multiple of `group`, naming the nearest that are."""
    if channels < 1 or channels % group:
        below = channels // group * group
        nearest = f"{below} or {below + group}" if below > 0 else f"{group}"
        raise ValueError(f"channels: expected a multiple of group={group}, got {channels}; nearest: {nearest}")


def over_channels(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear map of the channels of `x` `(B, C, *S)`."""
    return layer(x.movedim(1, -1)).movedim(-1, 1)


def original_name(name: str) -> str:
    """InternImage's name of a tensor of `DCNv3`."""
    for ours, original in ORIGINAL_NAMES.items():
        if name.startswith(ours):
            return original + name.removeprefix(ours)
    return name
