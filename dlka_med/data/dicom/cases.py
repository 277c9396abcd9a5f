"""Which cases a path of DICOM files holds: a series, or a folder of such folders and zip files."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from dlka_med.data.channel_files import Case, without_twins
from dlka_med.data.dicom.choice import choose, find_series, listed
from dlka_med.data.dicom.headers import Series, scan
from dlka_med.data.dicom.source import holds_dicom, marks, names_within
from dlka_med.data.formats import DICOM_ENDINGS, ENDINGS, is_dicom
from dlka_med.errors import InputError
from dlka_med.paths import shown

logger = logging.getLogger("dlka_med")


def dicom_cases(path: Path, channels: Sequence[str], asked: Sequence[str] = ()) -> tuple[Case, ...]:
    """A case of each source, called after its folder or zip file, but never after a patient whom its files name.

    DICOM files in `path` itself make it one source. Else every folder and zip file in it that holds some, also further
    down, is a source of its own; where series are asked for, the folders of one patient are one source. What is wrong
    with one of several sources is told when it is read.

    Args:
        asked: UID or number of the series of each channel; nothing: the only series that is a volume.

    Returns:
        Nothing where there is no such file.

    Raises:
        InputError: the only source cannot be used, or `asked` is not one for each channel.
    """
    sources = _sources(path)
    if sources and asked and len(asked) != len(channels):
        raise InputError(
            f"{len(asked)} series are named, but the run has {len(channels)} channels, {list(channels)}: name one for "
            "each"
        )
    if asked and len(sources) > 1 and _is_of_one_patient(path, sources):
        sources = [path]
    return without_twins(path, [_case(source, channels, asked, alone=len(sources) == 1) for source in sources])


def refuse_dicom_beside(path: Path, image: Path) -> None:
    """Raise `InputError` if a folder holds DICOM files, or folders or zip files of them, beside another image."""
    for entry in sorted(path.iterdir()):
        if not entry.name.startswith(".") and _seems_dicom(entry):
            raise InputError(
                f"{path} mixes DICOM, such as {shown(entry)}, and other images, such as {image}: keep them in folders "
                "of their own"
            )


def _seems_dicom(entry: Path) -> bool:
    name = entry.name.lower()
    if name.endswith(".zip"):
        return os.path.isfile(entry) and holds_dicom(entry)
    if not os.path.isdir(entry):
        return is_dicom(entry)
    inside = [entry / file for file in names_within(entry) if not file.lower().endswith(".zip")]
    return not name.endswith(ENDINGS) and any(map(is_dicom, inside))


def _sources(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    within = [entry for entry in entries if entry.is_dir() or entry.name.lower().endswith(".zip")]
    plain = any(holds_dicom(entry) for entry in entries if entry not in within)
    return [path] if plain else [entry for entry in within if entry.is_file() or _may_hold_dicom(entry)]


def _may_hold_dicom(folder: Path) -> bool:
    try:
        return holds_dicom(folder)
    except InputError:
        return True  # what is wrong with it is told when it is read


def _is_of_one_patient(path: Path, sources: Sequence[Path]) -> bool:
    try:
        return bool(find_series(path)) and all(source.is_dir() for source in sources)
    except InputError:
        return False


def _case(source: Path, channels: Sequence[str], asked: Sequence[str], *, alone: bool) -> Case:
    images, name = (source,) * len(channels), _plain(source)
    try:
        name = _name(source, scan(source, marks(source)))
        found = find_series(source)
        wanted = tuple(asked) or _only(source, found, channels)
        chosen = [choose(source, series) for series in wanted]
    except InputError:
        if alone:
            raise
        return Case(name, images, series=tuple(asked) or (None,) * len(channels))
    if len(found) > 1:
        logger.info("case %s: %s; %s", name, ", ".join(map(str, chosen)), listed(found))
    if chosen[0].slices == 1 and source.is_file() and source.suffix.lower() != ".zip":
        logger.warning("%s is one slice: give the folder of its series to predict all of it", source)
    return Case(name, images, series=wanted)


def _only(source: Path, found: Sequence[Series], channels: Sequence[str]) -> tuple[str]:
    chosen = choose(source)
    if len(channels) > 1:
        raise InputError(
            f"{source}: a series holds one channel, but the run has {len(channels)}, {list(channels)}: name the series "
            f"of each with --series A,B; {listed(found)}"
        )
    return (chosen.uid,)


def _plain(source: Path) -> str:
    name = source.resolve().name
    ends = source.is_file() and name.lower().endswith(DICOM_ENDINGS)
    return name[: -len(source.suffix)] if ends else name


def _name(source: Path, found: Sequence[Series]) -> str:
    """Of the folder or file; where it is the patient's, a mark of the series."""
    if not any(header.tells for series in found for header in series.headers):
        return _plain(source)
    mark = hashlib.sha256(found[0].uid.encode()).hexdigest()[:12]
    logger.info("a case is called series-%s, as the name of its folder or file holds its patient's", mark)
    return f"series-{mark}"
