"""Deformable convolution on CUDA devices, forward and backward, by kernels that Triton compiles."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from dlka_med.ops.backends.registration import geometry_of, outputs, register_derivatives
from dlka_med.ops.backends.triton_start import why_not_started
from dlka_med.ops.backends.triton_tiles import PROGRAMS, Tile, merged, parts, precision
from dlka_med.ops.geometry import Geometry
from dlka_med.ops.tracing import why_not_traced

INSTALLED = importlib.util.find_spec("triton") is not None
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SUMS_BYTES = 2**26
WIDE_FROM = 2**31 - 2**16


def why_not(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> str | None:
    """The reason why this backend cannot compute `deform_conv` of these arguments, None if it can."""
    if not INSTALLED:
        return "triton is not installed"
    if x.device.type != "cuda" and not (x.device.type == "cpu" and interpreted()):
        return f"expected tensors on a cuda device, got {x.device}"
    if geometry.spatial_dims > 3:
        return f"expected at most 3 spatial axes, got {geometry.spatial_dims}"
    tensors = [t for t in (x, offset, weight, bias, mask) if t is not None]
    if any(t.dtype not in DTYPES for t in tensors):
        return f"expected tensors of 16, 32 or 64 bits, got {', '.join(str(t.dtype) for t in tensors)}"
    if (reason := why_not_traced("triton", tensors)) or interpreted():
        return reason
    half_products = x.dtype.itemsize == 2 and not is_depthwise(x.shape[1], weight, geometry)
    return why_not_started(x.device, half_products)


def interpreted() -> bool:
    """Whether Triton runs kernels by its interpreter, which takes tensors on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def run(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """The result of `deform_conv`, its memory laid out channels-last; differentiable once.

    Raises:
        RuntimeError: in the backward pass, where x asks for a gradient under
            `torch.use_deterministic_algorithms(True)`: its additions have no fixed order.
    """
    rows = x.movedim(1, -1).contiguous()
    axes = (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
    return forward(rows, offset, weight, bias, mask, *axes, geometry.groups, geometry.offset_groups).movedim(-1, 1)


@torch.library.custom_op("dlka_med::deform_conv_cuda", mutates_args=())
def forward(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    """`(B, *S, C)` to `(B, *S', O)`, both contiguous and of one dtype; the other tensors as in `deform_conv`."""
    geometry = geometry_of(kernel_size, stride, padding, dilation, groups, offset_groups)
    return Problem(x, offset, weight, mask, geometry).forward(bias)


@forward.register_fake
def _(x, offset, weight, bias, mask, kernel_size, stride, padding, dilation, groups, offset_groups):
    return x.new_empty(x.shape[0], *offset.shape[2:], outputs(x, weight))


@torch.library.custom_op("dlka_med::deform_conv_cuda_backward", mutates_args=())
def backward(
    grad_y: Tensor,
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    wanted: list[bool],
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, offset, weight and mask, each with the dtype of its tensor; empty ones where not `wanted`."""
    geometry = geometry_of(kernel_size, stride, padding, dilation, groups, offset_groups)
    return Problem(x, offset, weight, mask, geometry).gradients(grad_y.contiguous(), wanted)


@backward.register_fake
def _(grad_y, x, offset, weight, mask, wanted, *settings):
    return (
        x.new_empty(x.shape if wanted[0] else 0),
        like_flattened(offset) if wanted[1] else x.new_empty(0),
        weight.new_empty(weight.shape) if wanted[2] else x.new_empty(0),
        like_flattened(mask) if wanted[3] else x.new_empty(0),
    )


register_derivatives(forward, backward)


def is_depthwise(channels: int, weight: Tensor | None, geometry: Geometry) -> bool:
    """Whether every output is a sum over one channel, so that no matrices are multiplied."""
    return weight is None or geometry.groups == channels == weight.shape[0]


def like_flattened(tensor: Tensor) -> Tensor:
    """Memory for the gradient of offset or mask, in which a single stride leads through all positions."""
    return torch.empty_like(tensor.flatten(2)).unflatten(2, tensor.shape[2:])


def alert_of_atomics() -> None:
    """What PyTorch's own operators do about `torch.use_deterministic_algorithms`."""
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "deform_conv: expected torch.use_deterministic_algorithms(False) for the gradient of x by the backend "
        "triton_gpu, whose additions have no fixed order, got True; use warn_only=True or backend='reference'"
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(message)
    warnings.warn(message, stacklevel=2)


class Problem:
    """One call: its tensors as the kernels read them.

    Groups of few channels are convolved several at a time, with zeros between them in the table.
    """

    def __init__(
        self, x: Tensor, offset: Tensor, weight: Tensor | None, mask: Tensor | None, geometry: Geometry
    ) -> None:
        batch, *size, channels = x.shape
        self.cells, self.kernels = (
            importlib.import_module(f"dlka_med.ops.backends.triton_{n}") for n in ("cells", "kernels")
        )
        self.x, self.weight, self.geometry, self.out = x.contiguous(), weight, geometry, tuple(offset.shape[2:])
        self.offset, self.mask = offset.flatten(2), None if mask is None else mask.flatten(2)
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        self.outputs = outputs(x, weight)
        self.depthwise = is_depthwise(channels, weight, geometry)
        self.merged = 1 if self.depthwise else merged(geometry.groups, max(channels, self.outputs) // geometry.groups)
        groups = 1 if self.depthwise else geometry.groups // self.merged
        self.layout = self.cells.Layout(
            size=tuple(size),
            out=self.out,
            stride=geometry.stride,
            padding=geometry.padding,
            dilation=geometry.dilation,
            pitch=tuple(math.prod(size[axis + 1 :]) * channels for axis in range(len(size))),
            channels=channels,
            width=channels // geometry.offset_groups,
            depth=channels // groups,
            outputs=self.outputs // groups,
            positions=math.prod(self.out),
            total=batch * math.prod(self.out),
        )
        self.tile = Tile.of(self.layout, None if self.depthwise else self.layout.outputs)
        self.blocks = parts(self.layout.total, self.tile.positions)

    def forward(self, bias: Tensor | None) -> Tensor:
        """The result, channels-last."""
        layout, tile = self.layout, self.tile
        y = self.x.new_empty(self.x.shape[0], *self.out, self.outputs)
        tensors = (self.x, self.offset, self.mask, self.table(), bias, y)
        if self.depthwise:
            programs = self.blocks * self.geometry.offset_groups * parts(layout.width, tile.channels)
            self.launch(self.kernels.weighted_sum, tile, programs, *tensors)
        else:
            programs = self.blocks * (layout.channels // layout.depth) * parts(layout.outputs, tile.outputs)
            self.launch(self.kernels.convolution, tile, programs, *tensors)
        return y

    def gradients(self, grad_y: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of x, offset, weight and mask; empty where not wanted."""
        for_x, for_offset, for_weight, for_mask = wanted
        grad_x = self.x.new_zeros(self.x.shape, dtype=self.dtype) if for_x else None
        grad_offset = torch.empty_like(self.offset) if for_offset else None
        grad_mask = torch.empty_like(self.mask) if for_mask else None
        if for_x:
            alert_of_atomics()
        if for_x or for_offset or for_mask:
            tile = self.tile.of_gradients()
            programs = parts(self.layout.total, tile.positions) * self.geometry.offset_groups
            chunk = parts(self.geometry.points, parts(PROGRAMS, max(programs, 1)))
            programs *= parts(self.geometry.points, chunk)
            tensors = (grad_y, self.x, self.offset, self.mask, self.table(), grad_x, grad_offset, grad_mask)
            self.launch(self.kernels.data_gradient, tile, programs, *tensors, chunk=chunk)
        found = (
            grad_x.to(self.x.dtype) if for_x else None,
            grad_offset.unflatten(2, self.out) if for_offset else None,
            self.grad_weight(grad_y) if for_weight else None,
            grad_mask.unflatten(2, self.out) if for_mask else None,
        )
        return tuple(self.x.new_empty(0) if gradient is None else gradient for gradient in found)

    def grad_weight(self, grad_y: Tensor) -> Tensor:
        """The gradient of the weight: sums over spans of positions, added in a fixed order."""
        layout, tile, points = self.layout, self.tile, self.geometry.points
        depth = layout.width if self.depthwise else layout.depth
        pieces = points * (layout.channels // depth) * parts(depth, tile.channels)
        pieces *= 1 if self.depthwise else parts(layout.outputs, tile.outputs)
        shape = points, layout.channels, 1 if self.depthwise else layout.outputs
        spans = min(parts(PROGRAMS, pieces), max(SUMS_BYTES // (math.prod(shape) * self.dtype.itemsize), 1))
        span = max(parts(self.blocks, spans), 1)
        spans = parts(self.blocks, span)
        sums = self.x.new_empty(spans, *shape, dtype=self.dtype)
        tensors = (grad_y, self.x, self.offset, self.mask, sums)
        self.launch(self.kernels.weight_gradient, tile, spans * pieces, *tensors, span=span)
        return self.weight.new_empty(self.weight.shape).copy_(self.from_table(sums.sum(0)))

    def launch(self, kernel: Callable, tile: Tile, programs: int, *tensors: Tensor | None, **settings: int) -> None:
        """Start `programs` of a kernel on tensors.

        Loads are not pipelined: for that, tiles of all corners would wait in shared memory, more of it than most
        devices have.
        """
        if programs == 0:
            return
        names = kernel.arg_names
        named = dict(zip(names, tensors, strict=False))
        strided = [named.get(name) for name in ("offset", "mask", "grad_offset", "grad_mask")]
        settings |= {
            "layout": self.layout,
            "strides": tuple(self.cells.Strides(*((0, 0, 0) if t is None else t.stride())) for t in strided),
            "KERNEL": self.geometry.kernel_size,
            "POINTS": self.geometry.points,
            "BLOCK_P": tile.positions,
            "BLOCK_C": tile.channels,
            "BLOCK_O": tile.outputs,
            "PRECISION": precision(self.x.dtype),
            "WIDE": max(extent(t) for t in (self.x, *tensors) if t is not None) >= WIDE_FROM,
            "ACC": self.kernels.DTYPES[self.dtype],
        }
        settings = {name: value for name, value in settings.items() if name in names}
        with torch.cuda.device_of(self.x):
            kernel[(programs,)](**named, **settings, num_warps=tile.warps, num_stages=1)

    def table(self) -> Tensor | None:
        """The weight as `(points, channels, outputs of a group)`."""
        if self.weight is None:
            return None
        values = self.weight.to(self.dtype).reshape(self.by_groups()).permute(4, 0, 3, 2, 1)
        if self.merged == 1:
            return values.contiguous()
        points, groups, depth, features, _ = values.shape
        table = values.new_zeros(points, groups, self.merged, depth, self.merged, features)
        table.diagonal(dim1=2, dim2=4).copy_(values)
        return table

    def from_table(self, table: Tensor) -> Tensor:
        """A table's values in the layout of the weight."""
        groups, number, features, depth, points = self.by_groups()
        table = table.reshape(points, groups, number, depth, number, features).diagonal(dim1=2, dim2=4)
        return table.permute(1, 4, 3, 2, 0).reshape(self.weight.shape)

    def by_groups(self) -> tuple[int, int, int, int, int]:
        """Shape of the weight as `(merged groups, groups in one, outputs, channels, points)`."""
        number = self.geometry.groups
        depth = self.weight.shape[1]
        return number // self.merged, self.merged, self.outputs // number, depth, self.geometry.points


def extent(tensor: Tensor) -> int:
    """Elements between the first and the last of a tensor, or its number of them."""
    return sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
