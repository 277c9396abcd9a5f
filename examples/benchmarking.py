"""What the benchmarks share: medians of interleaved runs, the peak of memory, the machine they ran on."""

import ctypes
import gc
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import dlka_med

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def timed(calls: dict[str, Callable[[], object]], device: str, rounds: int) -> dict[str, float]:
    """Median seconds per call; every round runs all calls in turn, quick ones several times."""
    repeats, taken = {}, {name: [] for name in calls}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, min(20, round(0.05 / seconds(call, device))))
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name] += [seconds(call, device) for _ in range(repeats[name])]
    return {name: statistics.median(times) for name, times in taken.items()}


def seconds(call: Callable[[], object], device: str) -> float:
    """Seconds that one call takes."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_memory(call: Callable[[], object], device: str) -> float:
    """Bytes that a call holds at its peak beyond what was held before, its result among them; NaN where unknown.

    On Linux the process's resident memory is read: run this on calls of many megabytes.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    if not CLEAR_REFS.exists():
        return math.nan
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR_REFS.write_text("5")
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def resident(entry: str) -> int:
    """Bytes of resident memory: `VmRSS` now, `VmHWM` at the peak."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 1024


def geometric_mean(values: list[float]) -> float:
    """The nth root of the product."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def header(device: str) -> str:
    """Device and versions, one line."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}, dlka_med {dlka_med.__version__}, Python {platform.python_version()}"


def processor() -> str:
    """The model of the processor where the system tells it, else its family."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
