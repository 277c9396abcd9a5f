"""Files and folders that appear whole or not at all."""

import errno
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlka_med.errors import InputError, WriteError

ALMOST_NOTHING = 2**16  # bytes
UNFINISHED = ".writing-"
RANDOM = "?" * 8  # of tempfile's names
KEPT = 150  # bytes at the end of a name that its temporary one keeps: file systems allow 255 in all


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it there on success, remove it on any failure.

    The temporary name ends like `path`, so writers that look at the suffix (`.nii.gz`) are content.

    Raises:
        WriteError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    writable_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix=f"-{_end(path.name)}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except Exception as error:
        _name_full_disk(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; move it there on success, remove it on any failure.

    An empty folder that is there already stays, and gets the content from a temporary folder in it.

    Raises:
        InputError: `path` exists and is not an empty folder.
        WriteError: it, or its parent, cannot be written to, or the disk is full.
    """
    path = Path(path)
    refuse_existing(path)
    # It may be a link, a mounted disk or the folder that the user is in, none of which can be made anew.
    is_there = path.is_dir()
    place = writable_folder(path if is_there else path.parent)
    temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, suffix=f"-{_end(path.name)}", dir=place))
    try:
        yield temporary
        if is_there:
            for child in list(temporary.iterdir()):
                child.replace(path / child.name)
        else:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o777 & ~umask)
            temporary.replace(path)
    except Exception as error:
        _name_full_disk(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(folder: str | Path) -> None:
    """Remove what killed processes were writing into `folder`, and what was to become `folder` itself.

    Folders in it are left alone. Nobody may be writing there at the same time.
    """
    folder = Path(folder)
    itself = f"{UNFINISHED}{RANDOM}-{glob.escape(_end(folder.name))}"
    halves = [*folder.glob(f"{UNFINISHED}*"), *folder.parent.glob(itself)]
    for half in halves:
        if half.is_dir():
            shutil.rmtree(half, ignore_errors=True)
        else:
            half.unlink(missing_ok=True)


def _end(name: str) -> str:
    return os.fsencode(name)[-KEPT:].decode(errors="ignore")


def refuse_existing(path: str | Path) -> None:
    """Raise `InputError` if `path` is a file or a folder with more in it than what killed processes were writing."""
    path = Path(path)
    if path.is_dir():
        is_free = all(child.name.startswith(UNFINISHED) for child in path.iterdir())
    else:
        is_free = not os.path.lexists(path)
    if not is_free:
        raise InputError(f"{path} exists already and is not empty: name another folder, or move this one away")


def writable_folder(path: str | Path) -> Path:
    """Make the folder if it is missing and check that files can be put into it.

    Raises:
        WriteError: it cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise WriteError(
            f"cannot write to the folder {path} ({error.strerror}): name another one or change its rights"
        ) from error
    return path


def user_cache_folder() -> Path:
    """Where this package may keep what can be computed again, as the system wants it; it need not be there."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dlka_med"
    home, fallback = ("LOCALAPPDATA", "AppData/Local") if sys.platform == "win32" else ("XDG_CACHE_HOME", ".cache")
    named = Path(os.environ.get(home, ""))
    return (named if named.is_absolute() else Path.home() / fallback) / "dlka_med"


def _name_full_disk(error: Exception, path: Path) -> None:
    # numpy, torch and safetensors each have a word of their own for it, mostly without an error number.
    told = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    if told or shutil.disk_usage(path if path.is_dir() else path.parent).free < ALMOST_NOTHING:
        raise WriteError(
            f"{path} cannot be written, no space is left on its disk: make room, or name a folder on another disk"
        ) from error
