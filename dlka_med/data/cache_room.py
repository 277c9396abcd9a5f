"""The room that prepared cases may take: which are in use, and which went unused longest."""

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.shards import NO_LOCKS

ENTRIES = "prepared-*/*/facts.json"


class Lease:
    """Keeps entries of a cache folder from being removed for as long as this object lives.

    The system lets go of its lock when the process ends in whatever way, so a killed run holds nothing.
    """

    def __init__(self, root: Path, entries: Iterable[Path]):
        file = _leases(root) / f"{uuid.uuid4().hex}.json"
        with exclusive(root):
            _used(root)  # Else the leases of dead processes pile up where the limit is never met.
            with whole_file(file) as temporary:
                temporary.write_text(json.dumps([str(entry.relative_to(root)) for entry in entries]), encoding="utf-8")
            self._lock = FileLock(file.with_suffix(".lock"), fallback_to_soft=False)
            self._lock.acquire()


def make_room(root: Path, limit: float) -> int:
    """Remove the entries that went unused longest until all together take at most `limit` bytes.

    Entries that a living process has a lease on stay. Returns how many bytes are too many all the same.
    """
    with exclusive(root):
        found = [(facts.stat().st_mtime, _bytes(facts.parent), facts.parent) for facts in root.glob(ENTRIES)]
        excess = sum(size for _, size, _ in found) - limit
        used = _used(root) if excess > 0 else set()
        for _, size, entry in sorted(found):
            if excess <= 0:
                break
            if str(entry.relative_to(root)) not in used:
                # Without its facts an entry counts as missing, even if the rest is removed later or not at all.
                (entry / "facts.json").unlink(missing_ok=True)
                shutil.rmtree(entry, ignore_errors=True)
                excess -= size
    return max(int(excess), 0)


def _used(root: Path) -> set[str]:
    """Entries that living processes use; what dead ones left is tidied up."""
    used: set[str] = set()
    for file in _leases(root).glob("*.json"):
        lock = FileLock(file.with_suffix(".lock"), fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            used.update(json.loads(file.read_text(encoding="utf-8")))
            continue
        lock.release()
        for left in (file, file.with_suffix(".lock")):
            left.unlink(missing_ok=True)
    return used


def _leases(root: Path) -> Path:
    return root / ".in-use"


def _bytes(entry: Path) -> int:
    total = 0
    for file in entry.iterdir():
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """One process at a time takes leases or removes entries of this cache folder.

    Raises:
        InputError: its file system cannot lock files, or what lies there is another user's.
    """
    try:
        _leases(root).mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".in-use" / "all.lock", fallback_to_soft=False):
            yield
    except PermissionError as error:
        raise InputError(
            f"{error.filename or root} is another user's and cannot be written to: change its rights, or set "
            "dataset.cache to another folder"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise InputError(f"the file system of {root} cannot lock files: set dataset.cache to another folder") from error
