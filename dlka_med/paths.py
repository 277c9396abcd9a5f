"""Paths that a user names: looked at before anything slow is imported, and told with what was probably meant."""

import difflib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from dlka_med.errors import InputError

LONGEST_SHOWN = 500


def existing(path: str | Path, expected: str) -> Path:
    """The path, or `InputError` with the nearest one if there is nothing.

    Args:
        expected: what it should be, such as "a folder of images".
    """
    path = Path(path)
    if not os.path.exists(path):
        raise InputError(f"{shown(path)} does not exist: give {expected}{did_you_mean(path)}")
    return path


def shown(path: object) -> str:
    """A path or a value as it stands in a message, all of it valid UTF-8; of a very long one only the ends."""
    text = str(path).replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= LONGEST_SHOWN else f"{text[:100]}...{text[-50:]} ({len(text)} characters)"


def could_hold_files(folder: str | Path) -> Path:
    """The path, or `InputError` if it cannot be a folder to write into; nothing is made."""
    folder = Path(folder)
    if str(folder).encode("utf-8", "replace").decode("utf-8") != str(folder):
        raise InputError(f"cannot write to the folder {shown(folder)}: its name is not valid UTF-8, name another one")
    try:
        os.stat(folder)
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError) or error.errno == errno.ENAMETOOLONG:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot write to the folder {shown(folder)} ({reason}): name another one") from error
    found = next(place for place in (folder, *folder.absolute().parents) if os.path.exists(place))
    if not found.is_dir():
        raise InputError(f"cannot write to the folder {folder}: {found} is a file, name another folder")
    if not os.access(found, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to the folder {folder}: name another one or change the rights of {found}")
    return folder


def did_you_mean(path: Path, fits: Callable[[Path], bool] = os.path.exists) -> str:
    """The end of a message about a path that does not exist: the nearest one that `fits`, or nothing."""
    nearest = _nearest(path, fits)
    return f"; did you mean {nearest}?" if nearest else ""


def _nearest(path: Path, fits: Callable[[Path], bool]) -> Path | None:
    """The first part that does not exist is replaced by its nearest sibling, then the next one."""
    missing = next((part for part in (*reversed(path.parents), path) if not os.path.exists(part)), None)
    if missing is None:
        return None
    try:
        siblings = os.listdir(missing.parent)
    except OSError:
        return None
    rest = path.relative_to(missing)
    for name in difflib.get_close_matches(missing.name, siblings, n=3, cutoff=0.5):
        found = missing.parent / name / rest
        if not os.path.exists(found):
            found = _nearest(found, fits)
        if found is not None and fits(found):
            return found
    return None
