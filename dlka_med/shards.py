"""Several processes share folds or cases: whose are which, and who is at work in a folder."""

import errno
import logging
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dlka_med.errors import InputError
from dlka_med.files import writable_folder

Shard = tuple[int, int]
"""Number of this process, from 0, and of all of them."""

log = logging.getLogger("dlka_med")

ALONE: Shard = (0, 1)
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems say that cannot lock files. A file in place of a lock would outlast a process that is killed."""
LAUNCHERS = (  # torchrun, srun: rank, processes, rank on this machine
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
TOGETHER = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "TORCHELASTIC_RUN_ID"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "JSM_NAMESPACE_RANK"),
}
"""What tells Lightning that processes train one network together."""


def leave_launcher(environment: MutableMapping[str, str] = os.environ) -> Shard:
    """The shard of a process that torchrun or srun started, which from now on works by itself.

    It gets a GPU of its own where there are several. To be called before Lightning is imported, which looks at its rank
    then, and before CUDA is used.
    """
    for names in LAUNCHERS:
        if all(name in environment for name in names):
            rank, count, local = (int(environment[name]) for name in names)
            break
    else:
        return ALONE
    for name in TOGETHER & environment.keys():
        del environment[name]
    _choose_gpu(local, environment)
    return rank, count


def lock_of(run: Path) -> Path:
    """The lock of a run folder, beside it: it is needed before the folder is there."""
    run = run.absolute()
    return run.parent / ".locks" / f"{run.name}.lock"


@contextmanager
def claimed(file: Path, *, wait: bool, silently: bool = False) -> Iterator[bool]:
    """Hold the lock of a file, which the system takes back from a process that ends in whatever way.

    Args:
        wait: until another process lets go of it; otherwise False is given, and nothing is held.
        silently: it is held for a moment only, so that waiting for it is not worth a line.

    Raises:
        InputError: the file system knows no locks.
    """
    lock = FileLock(writable_folder(file.parent) / file.name, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            yield False
            return
        if not silently:
            log.info("waiting for another process that is at work in %s", file.parent.parent)
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise InputError(
            f"the file system of {file.parent} cannot lock files, which keeps two processes from spoiling each "
            "other's work: name a folder on another one"
        ) from error
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def outlasting(folder: Path, shard: Shard) -> Iterator[None]:
    """What a user has to mend is raised when the other shards that are at work in the folder have ended.

    Launchers stop all processes as soon as one of them fails, and with them what the others could still do.
    """
    index, count = shard
    locks = [lock_of(folder / f"shard_{number}_of_{count}") for number in range(count)]
    mistake: InputError | None = None
    with claimed(locks[index], wait=True):
        try:
            yield
        except InputError as error:
            mistake = error
    if mistake is None:
        return
    for lock in locks:
        with claimed(lock, wait=True, silently=True):
            pass
    raise mistake


def _choose_gpu(local: int, environment: MutableMapping[str, str]) -> None:
    import torch

    found = torch.cuda.device_count()
    if found > 1:
        named = environment.get("CUDA_VISIBLE_DEVICES")
        names = [str(index) for index in range(found)] if named is None else named.split(",")
        environment["CUDA_VISIBLE_DEVICES"] = names[local % found]
