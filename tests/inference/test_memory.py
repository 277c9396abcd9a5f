"""The lack of memory, as those say it who allocate; what of a GPU's memory can be had."""

import errno

import numpy as np
import pytest
import torch

from dlka_med.inference.memory import free_memory, is_out_of_memory, lacking_memory

FAR_TOO_MUCH = 10**15


@pytest.mark.parametrize("allocate", [lambda n: np.empty(n), lambda n: torch.empty(n), lambda n: bytearray(n)])
def test_a_real_lack_of_memory_is_told_apart(allocate):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate(FAR_TOO_MUCH)
    assert is_out_of_memory(caught.value)
    assert "\n" not in lacking_memory(caught.value, torch.device("cpu"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:81] DefaultCPUAllocator: not enough memory: you tried ..."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_the_words_of_others(error):
    assert is_out_of_memory(error)
    assert "on the CPU" in lacking_memory(error, torch.device("cuda"))


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError(errno.ENOSPC, "full"), KeyError("a")]
)
def test_other_mistakes_are_none_of_it(error):
    assert not is_out_of_memory(error)


def test_what_pytorch_keeps_for_reuse_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 7000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2000)
    assert free_memory(torch.device("cuda")) == 100 + 5000
