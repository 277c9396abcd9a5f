"""Where DICOM files lie: in a folder and the folders in it, in a zip file, or one by itself."""

import os
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from dlka_med.data.formats import DICOM_ENDINGS, DICOM_MAGIC, DICOM_PREAMBLE
from dlka_med.errors import InputError

UNPACKED = (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError, OSError)

Mark = tuple[str, int, int]
"""Name, size and time of a file."""


def holds_dicom(path: Path) -> bool:
    """Whether a folder, with the folders in it, or a zip file holds a DICOM file."""
    return next(files(path), None) is not None


def marks(path: Path) -> tuple[Mark, ...]:
    """What changes when the files change; `InputError` if there is no such source, or a file of it cannot be seen."""
    if path.is_dir():
        found = []
        for name in names_within(path):
            with _readable(path / name):
                stat = (path / name).stat()
            found.append((name, stat.st_size, stat.st_mtime_ns))
        return tuple(found)
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    return ((path.name, path.stat().st_size, path.stat().st_mtime_ns),)


def files(path: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, BinaryIO]]:
    """Name within the source and content of each DICOM file, one open at a time, in the order of the names.

    Args:
        names: of the files that are wanted; None: all that are DICOM by their first bytes.

    Raises:
        InputError: a file that calls itself DICOM is none, or cannot be read; a zip file is damaged or encrypted, or
            holds two files of one name.
    """
    if path.name.lower().endswith(".zip") and not path.is_dir():
        yield from _zipped(path, names)
        return
    for name in names_within(path) if path.is_dir() else [path.name]:
        if names is not None and name not in names:
            continue
        place = path / name if path.is_dir() else path
        with _readable(place), place.open("rb") as stream:
            if names is not None or _is_dicom(place, stream):
                yield name, stream


def names_within(folder: Path) -> Iterator[str]:
    """Of all files but hidden ones, relative to the folder."""
    for place, folders, here in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(here):
            if not name.startswith("."):
                yield Path(place, name).relative_to(folder).as_posix()


def _is_dicom(place: Path, stream: BinaryIO) -> bool:
    begin = stream.read(DICOM_PREAMBLE + len(DICOM_MAGIC))
    stream.seek(0)
    if begin[DICOM_PREAMBLE:] == DICOM_MAGIC:
        return True
    if place.name.lower().endswith(DICOM_ENDINGS):
        raise InputError(f"{place} is damaged or no DICOM file: export it again, or move it away")
    return False


def _zipped(path: Path, names: Collection[str] | None) -> Iterator[tuple[str, BinaryIO]]:
    with _damage_named(path):
        archive = zipfile.ZipFile(path)
    with archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.filename)
        for one, other in pairwise(entries):
            if one.filename == other.filename and not one.is_dir():
                raise InputError(
                    f"{path / one.filename} is there twice: pack the files of each series into a folder of it"
                )
        for entry in entries:
            parts = Path(entry.filename).parts
            hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
            if entry.is_dir() or hidden or (names is not None and entry.filename not in names):
                continue
            with _damage_named(path):
                if names is None:
                    with archive.open(entry) as stream:
                        if not _is_dicom(path / entry.filename, stream):
                            continue  # what else is packed there may be large
                content = archive.read(entry)
            with BytesIO(content) as stream:
                yield entry.filename, stream


@contextmanager
def _readable(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        mend = "change its rights" if isinstance(error, PermissionError) else "copy it again, or remove it"
        raise InputError(f"{place} cannot be read ({error.strerror}): {mend}") from error


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except UNPACKED as error:
        wrong = "is encrypted" if "encrypted" in str(error) else "is a damaged zip file"
        raise InputError(f"{path} {wrong}: copy it again, or unpack it into a folder") from error
