"""Problems of several pieces and tiles for the CPU backend, layouts of their tensors, and their results."""

import torch

from dlka_med.ops.backends import numba_cpu

from .cases import Case

LARGE = {
    "2d dense": Case((33, 41), (19, 21), bias=True, mask=True),
    "2d depthwise": Case((40, 37), (48, 48), kernel=5, padding=6, dilation=3, groups=48, offset_groups=2, bias=True),
    "2d grouped": Case((31, 30), (24, 36), groups=3, offset_groups=4, mask=True, stride=(2, 1)),
    "3d dense": Case((11, 14, 13), (32, 24), bias=True),
    "3d depthwise": Case((13, 9, 12), (40, 40), groups=40, padding=2, dilation=2, mask=True),
    "3d grouped": Case((7, 12, 10), (16, 32), groups=4, offset_groups=2, stride=(1, 2, 1)),
    "3d no weight": Case((9, 11, 10), (36, 0), offset_groups=3, mask=True, bias=True),
}


LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels-last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "sliced": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
    "expanded": lambda t: t[..., :1, :1].expand(t.shape),
}


def run(case, tensors, backend=numba_cpu):
    return backend.run(*(tensors[name] for name in ("x", "offset", "weight", "bias", "mask")), case.geometry)


def results(case, tensors, backend=numba_cpu):
    """The output and the gradients of all tensors."""
    tensors = {name: None if t is None else t.clone().requires_grad_() for name, t in tensors.items()}
    y = run(case, tensors, backend)
    present = [t for t in tensors.values() if t is not None]
    return [y.detach(), *torch.autograd.grad(y, present, torch.arange(y.numel()).reshape(y.shape).sin())]


def assert_close(ours, expected, tolerance):
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * other.abs().max().item())
