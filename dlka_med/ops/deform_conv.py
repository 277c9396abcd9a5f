"""The deformable convolution operator: formula, shapes, checks and the choice of a backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlka_med.ops.backends import BACKENDS
from dlka_med.ops.geometry import Geometry
from dlka_med.ops.precision import autocast_off


def deform_conv(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    offset_groups: int = 1,
    kernel_size: int | Sequence[int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Deformable convolution in any number of dims `d = x.ndim - 2`.

        y[o, p] = bias[o] + sum over kernel points k and channels c of o's group of
                  weight[o, c, k] * mask[g(c), k, p]
                  * x[c, p*stride - padding + k*dilation + offset[g(c), k, p]]

    `x` between its voxels is linear along every axis, and zero outside; a point at a NaN or infinite place
    reads zero and gives no gradient to its offset. Offsets are in voxels, in the order of the tensor's own
    axes, kernel point by kernel point (the last kernel axis runs fastest): the layout of torchvision and of
    ONNX `DeformConv`. Coordinates and sums are float32 at least, also under autocast; the result has the
    dtype of `x`, and its memory is channels-last if that of `x` is.

    Deformable convolution: Dai et al., Deformable Convolutional Networks, ICCV 2017, section 2.1; `mask`: Zhu
    et al., Deformable ConvNets v2, CVPR 2019, section 3.2; the sum without a weight: Wang et al., InternImage
    (DCNv3), CVPR 2023, equation 2.

    Args:
        x: `(B, C, *S)`.
        offset: `(B, G*K*d, *S')`, `G = offset_groups`, `K` kernel points, `S'` that of a plain convolution.
        weight: `(O, C/groups, *kernel)`; None adds the sampled points up, channel by channel.
        bias: `(O,)`, or `(C,)` without a weight.
        mask: `(B, G*K, *S')`, a factor for every sampled point.
        stride, padding, dilation: one integer, or one per axis.
        groups: groups of channels that are convolved separately (1 without a weight).
        offset_groups: groups of channels that share offsets and mask.
        kernel_size: needed without a weight, else that of the weight.
        backend: a name in `dlka_med.ops.backends.BACKENDS`; None takes the first that can.

    Returns:
        `(B, O, *S')`, or `(B, C, *S')` without a weight.

    Raises:
        TypeError: a tensor is not one or not of a floating-point dtype; an argument is not made of integers.
        ValueError: a shape, a device or a backend's name does not fit; the named backend cannot compute this.
    """
    check_tensors(x=x, offset=offset, weight=weight, bias=bias, mask=mask)
    geometry = checked_geometry(x, weight, kernel_size, stride, padding, dilation, groups, offset_groups)
    check_shapes(x, offset, weight, bias, mask, geometry)
    arguments = (x, offset, weight, bias, mask, geometry)
    run = BACKENDS[chosen_backend(backend, arguments)].run
    with autocast_off(x.device.type):
        y = run(*arguments)
    return y.contiguous(memory_format=memory_format(x))


def check_tensors(x: Tensor, **others: Tensor | None) -> None:
    """Refuse what is no floating-point tensor, or lies on another device than `x`."""
    for name, tensor in {"x": x, **others}.items():
        if tensor is None and name not in ("x", "offset"):
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: expected a floating-point dtype, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name}: expected device {x.device}, that of x, got {tensor.device}")


def checked_geometry(
    x: Tensor,
    weight: Tensor | None,
    kernel_size: int | Sequence[int] | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    offset_groups: int,
) -> Geometry:
    """The record of these arguments; the kernel's size is that of the weight if there is one."""
    if x.ndim < 3:
        raise ValueError(f"x: expected shape (batch, channels, *spatial), got {tuple(x.shape)}")
    if weight is None and kernel_size is None:
        raise ValueError("kernel_size: expected with weight=None, got None")
    if weight is not None and weight.ndim != x.ndim:
        raise ValueError(
            f"weight: expected {x.ndim} axes (out, channels / groups, *kernel) for x of {x.ndim} axes, "
            f"got shape {tuple(weight.shape)}"
        )
    size = kernel_size if weight is None else tuple(weight.shape[2:])
    geometry = Geometry.of(x.ndim - 2, size, stride, padding, dilation, groups, offset_groups)
    if weight is not None and kernel_size is not None:
        given = Geometry.of(x.ndim - 2, kernel_size).kernel_size
        if given != geometry.kernel_size:
            raise ValueError(f"kernel_size: expected {geometry.kernel_size}, that of weight, got {given}")
    return geometry


def check_shapes(
    x: Tensor,
    offset: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: Geometry,
) -> None:
    """Refuse shapes that do not fit together, saying which."""
    batch, channels, size = x.shape[0], x.shape[1], x.shape[2:]
    groups, offset_groups = geometry.groups, geometry.offset_groups
    for name, number in (("groups", groups), ("offset_groups", offset_groups)):
        if channels == 0 or channels % number:
            raise ValueError(f"x: expected channels divisible by {name}={number}, got shape {tuple(x.shape)}")
    out = geometry.output_size(size)
    if any(extent < 1 for extent in out):
        raise ValueError(
            f"x: expected a spatial shape that holds the kernel {geometry.kernel_size} (dilation "
            f"{geometry.dilation}, padding {geometry.padding}), got {tuple(size)}"
        )
    if weight is None:
        features = channels
        if groups != 1:
            raise ValueError(f"groups: expected 1 with weight=None, got {groups}")
    else:
        features = weight.shape[0]
        require_shape("weight", weight, (features, channels // groups, *geometry.kernel_size))
        if features == 0 or features % groups:
            raise ValueError(
                f"weight: expected output channels divisible by groups={groups}, got shape {tuple(weight.shape)}"
            )
    points = offset_groups * geometry.points
    require_shape("offset", offset, (batch, points * geometry.spatial_dims, *out))
    if mask is not None:
        require_shape("mask", mask, (batch, points, *out))
    if bias is not None:
        require_shape("bias", bias, (features,))


def require_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(tensor.shape)}")


def chosen_backend(name: str | None, arguments: tuple) -> str:
    """The named backend if it can, or the first that can; a ValueError with the reasons otherwise."""
    if name is not None and name not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    reasons = {}
    for candidate in BACKENDS if name is None else (name,):
        reasons[candidate] = BACKENDS[candidate].why_not(*arguments)
        if reasons[candidate] is None:
            return candidate
    raise ValueError("; ".join(f"backend {candidate}: {reason}" for candidate, reason in reasons.items()))


def memory_format(x: Tensor) -> torch.memory_format:
    """That in which a convolution of `x` answers."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    form = formats.get(x.ndim, torch.contiguous_format)
    if x.is_contiguous() or not x.is_contiguous(memory_format=form):
        return torch.contiguous_format
    return form
