"""Memory of the machine, and what this process holds of it."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

SAMPLED_EVERY = 0.002  # seconds
UNKNOWN = 4 * 2**30  # bytes, where the system does not tell

T = TypeVar("T")

_forgotten = 0.0  # bytes: the greatest peak before the system was told to count anew


def free_memory() -> float:
    """Bytes that are free now, of the machine and of the container that this process lives in."""
    return min(_available(Path("/proc/meminfo")), _left_to_container(Path("/sys/fs/cgroup")))


def held_memory() -> float:
    """Bytes of memory that this process holds now, mapped files included; the peak where the system tells no more."""
    return _status("VmRSS:") or _largest()


def peak_memory() -> float:
    """Bytes of memory that this process has held at its peak, mapped files included."""
    return max(_forgotten, _status("VmHWM:") or _largest())


def peak_while(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` returns, and how many bytes this process held meanwhile at its peak.

    Where the system cannot start a new peak (all but Linux) it is looked at every 2 ms.
    """
    if _start_new_peak():
        answer = work()
        return answer, _status("VmHWM:")
    peak, over = held_memory(), threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(SAMPLED_EVERY):
            peak = max(peak, held_memory())

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        answer = work()
    finally:
        over.set()
        watch.join()
    return answer, max(peak, held_memory())


def _start_new_peak() -> bool:
    """Whether the system counts the peak anew from here on; the former one is remembered."""
    global _forgotten
    before = peak_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    _forgotten = before
    return True


def _status(name: str) -> float:
    try:
        return 1024.0 * float(Path("/proc/self/status").read_text().partition(name)[2].split(maxsplit=1)[0])
    except (OSError, IndexError, ValueError):
        return 0.0


def _largest() -> float:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _available(meminfo: Path) -> float:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return 1024 * float(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return UNKNOWN


def _left_to_container(folder: Path) -> float:
    """Of control groups, version 2 and 1; infinite without a limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return float((folder / limit).read_text()) - float((folder / used).read_text())
        except (OSError, ValueError):
            continue
    return float("inf")
