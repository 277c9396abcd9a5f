"""Gradient checkpointing that changes neither results nor running statistics."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run_checkpointed(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)`, whose inner activations are computed again in the backward pass.

    Dropout draws the same numbers both times and BatchNorm counts the batch once.
    """
    if not (module.training and torch.is_grad_enabled()):
        return module(x)
    if torch.compiler.is_compiling():  # which knows no contexts, and counts what changes buffers once anyway
        return checkpoint(module, x, use_reentrant=False)
    return checkpoint(module, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _frozen_statistics(module)))


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    saved = [(m.momentum, m.num_batches_tracked) for m in norms]
    for m in norms:
        m.momentum, m.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for m, (momentum, batches) in zip(norms, saved, strict=True):
            m.momentum, m.num_batches_tracked = momentum, batches
