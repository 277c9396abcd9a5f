"""The machine: its memory and what this process holds of it, its parts and the software on it by name."""

import errno
import math
import os
import platform
import sys
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import TypeVar

SAMPLED_EVERY = 0.002  # seconds
UNKNOWN = 4 * 2**30  # bytes, where the system does not tell

PACKAGES = ("dlka_med", "torch", "monai", "numpy", "timm", "nibabel", "pytorch-lightning")

T = TypeVar("T")

_forgotten = 0.0  # bytes: the greatest peak before the system was told to count anew


def free_memory() -> float:
    """Bytes that are free now, of the machine and of the container that this process lives in."""
    return min(_available(Path("/proc/meminfo")), _left_to_container(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))


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


def software() -> dict[str, str]:
    """Versions of Python and of the packages that matter for a result, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """Operating system, processor, cores, memory and GPUs; no name of the machine or of its user."""
    found = {"system": f"{platform.system()} {platform.machine()}", "processor": _processor()}
    found["cores"] = f"{os.cpu_count() or 1} cores"
    if total := _meminfo(Path("/proc/meminfo"), "MemTotal"):
        found["memory"] = f"{total / 2**30:.1f} GiB"
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["gpu"] = ", ".join(names)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


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
    return _meminfo(meminfo, "MemAvailable") or UNKNOWN


def _meminfo(meminfo: Path, name: str) -> float:
    """Bytes of one line of the file; 0 where there is none."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return 1024 * float(lines[name].split()[0])
    except (OSError, KeyError, ValueError):
        return 0.0


def _left_to_container(mounted: Path, membership: Path) -> float:
    """Of the control groups of this process and all that they lie in, version 2 and 1; infinite without a limit.

    Files that the system keeps in memory count as free, as in the machine's `MemAvailable`.
    """
    unified, memory = _groups(membership)
    left = [_left(mounted / group, "memory.max", "memory.current", "") for group in unified]
    version_1 = mounted / "memory"
    left += [_left(version_1 / group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_") for group in memory]
    return min(left)


def _groups(membership: Path) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """Where a process stands below the mounts of version 2 and of the memory of version 1, up to the roots."""
    found: dict[str, PurePosixPath] = {}
    try:
        for line in membership.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            found |= dict.fromkeys(controllers.split(","), PurePosixPath(group.lstrip("/")))
    except (OSError, ValueError):
        pass
    unified, memory = (found.get(controller, PurePosixPath()) for controller in ("", "memory"))
    return [unified, *unified.parents], [memory, *memory.parents]


def _left(group: Path, limit: str, used: str, kind: str) -> float:
    try:
        left = float((group / limit).read_text()) - float((group / used).read_text())
    except (OSError, ValueError):
        return math.inf
    return left + sum(_fact(group / "memory.stat", f"{kind}{state}_file") for state in ("active", "inactive"))


def _fact(stat: Path, name: str) -> float:
    """Bytes of one line of a control group's `memory.stat`; 0 where there is none."""
    try:
        return float(dict(line.split() for line in stat.read_text().splitlines())[name])
    except (OSError, KeyError, ValueError):
        return 0.0


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or the system found no room."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def lack_of_memory(path: Path, error: BaseException) -> MemoryError:
    """The error of a file that found no room."""
    return MemoryError(f"{path}: {error}" if str(error) else str(path))
