"""Memory layout: the channels of every position side by side, in 2D and 3D."""

import torch
from torch import Tensor

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(x: Tensor) -> Tensor:
    """`x` of shape (B, C, *S), 2D or 3D, with the channels innermost in memory; free if it is so already."""
    if x.shape[1] == 1 and x.stride(1) != 1:
        # One channel makes the strides ambiguous: `contiguous` would leave them, and convolutions answer by them.
        return x.clone(memory_format=CHANNELS_LAST[x.ndim])
    return x.contiguous(memory_format=CHANNELS_LAST[x.ndim])
