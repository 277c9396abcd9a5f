"""Plain convolutions as layers: those of torch, computed by `dlka_med.ops.conv`."""

from __future__ import annotations

from torch import Tensor, nn

from dlka_med.ops.conv import conv


class FastConv:
    """Mixed into a convolution of torch: arguments, parameters and results stay, CPUs take less time."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str) or x.ndim != weight.ndim:
            return super()._conv_forward(x, weight, bias)
        return conv(
            x,
            weight,
            bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class Conv2d(FastConv, nn.Conv2d):
    """`torch.nn.Conv2d`, faster on CPUs."""


class Conv3d(FastConv, nn.Conv3d):
    """`torch.nn.Conv3d`, faster on CPUs."""


CONV = {1: nn.Conv1d, 2: Conv2d, 3: Conv3d}
