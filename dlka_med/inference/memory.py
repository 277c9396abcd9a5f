"""What fits into memory, and how its lack is told."""

import torch

from dlka_med.machine import is_lack_of_memory

# PyTorch has a class of its own for CUDA only; the allocators of CPUs and CUDA's libraries say it in words.
WORDS = ("not enough memory", "can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy, PyTorch, CUDA or the system found no room."""
    if is_lack_of_memory(error) or isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def lacking_memory(error: BaseException, device: torch.device) -> str:
    """A sentence about a case that did not fit."""
    said = str(error).partition("\n")[0] or type(error).__name__
    mend = "predict it on the CPU" if device.type == "cuda" else "predict it where more memory is free"
    return f"there is not enough memory ({said}): {mend}, or cut the image to what matters"


def free_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that can be had: those that nobody holds, and those that PyTorch keeps for reuse."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
