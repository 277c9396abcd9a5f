"""What the networks of MONAI have in common.

They take images of any size and give logits of as many scales as the loss wants. MONAI is imported when a network is
built: it takes seconds.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from dlka_med.networks.any_size import AnySizeNetwork

Norm = Literal["batch", "instance"]


class MonaiNetwork(AnySizeNetwork):
    """Base of the networks of MONAI; `model` is what MONAI built."""

    model: nn.Module

    def _logits(self, x: Tensor, scales: int) -> list[Tensor]:
        return [self.model(x)]

    def _padded(self, image: Tensor) -> Tensor:
        # Channels-last gradients of one image make that of torch's instance norm wrong on CPUs (torch 2.14). And one
        # channel makes the strides ambiguous, so that `contiguous` would leave them.
        return super()._padded(image).clone(memory_format=torch.contiguous_format)


def least_units(norm: str) -> int:
    """Voxels of the deepest map that a norm needs in evaluation."""
    return 2 if norm == "instance" else 1


def check_odd(kernel_size: int) -> None:
    """Raise `ValueError` unless a kernel has a voxel in its middle."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size has to be odd, got {kernel_size}")
