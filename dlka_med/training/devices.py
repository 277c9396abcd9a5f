"""What several devices have to agree on; with one device each of these does nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


def agree(values: Sequence[float], device: torch.device) -> list[float]:
    """The first device's values, on all of them."""
    if not torch.distributed.is_initialized():
        return list(values)
    sent = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.broadcast(sent, 0)
    return sent.tolist()


def merge(found: Mapping[str, Any]) -> dict[str, Any]:
    """What each device found, all together."""
    if not torch.distributed.is_initialized():
        return dict(found)
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, dict(found))
    return {key: value for part in parts for key, value in part.items()}


def share_buffers(module: nn.Module) -> None:
    """Give all devices the first one's buffers: each has gathered running statistics of its own batches."""
    if torch.distributed.is_initialized():
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)
