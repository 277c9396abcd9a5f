"""Which series of a source is meant."""

from collections.abc import Sequence
from pathlib import Path

from dlka_med.data.dicom.headers import Series, scan
from dlka_med.data.dicom.source import marks
from dlka_med.errors import InputError

LISTED = 20


def find_series(source: Path) -> tuple[Series, ...]:
    """All series of a folder, a zip file or a file, by number.

    Raises:
        InputError: a file is damaged, there is none, or they are of several patients.
    """
    found = scan(source, marks(source))
    if not found:
        raise InputError(f"{source} holds no DICOM file: give a folder of them, or a zip file of one")
    patients = {header.patient for series in found for header in series.headers} - {""}
    if len(patients) > 1:
        raise InputError(
            f"{source} holds images of {len(patients)} patients: put those of each into a folder of its own"
        )
    return found


def choose(source: Path, asked: str | None = None) -> Series:
    """The series that was asked for by its UID or number; without a question the only one that is a volume.

    Raises:
        InputError: as in `find_series`; or there is no such series, several, or it holds no images.
    """
    found = find_series(source)
    images = [series for series in found if series.is_image]
    if asked is not None:
        named = [series for series in found if asked in (series.uid, series.number)]
        if len(named) > 1:
            raise InputError(
                f"{source} has {len(named)} series of the number {asked}: name one by its SeriesInstanceUID, or give a "
                f"folder of its files alone; {listed(named)}"
            )
        if not named:
            raise InputError(f"{source} has no series {asked}: {listed(found)}")
        (chosen,) = named
        if not chosen.is_image:
            raise _no_images(source, [chosen])
        return chosen
    if not images:
        raise _no_images(source, found)
    likely = [series for series in images if series.is_volume] if len(images) > 1 else images
    if len(likely) != 1:
        raise InputError(
            f"{source} has {len(images)} series of images: choose one with --series NUMBER (or its SeriesInstanceUID); "
            f"{listed(images)}"
        )
    return likely[0]


def listed(series: Sequence[Series]) -> str:
    """What there is to choose from, in a line."""
    numbers = [one.number for one in series]
    named = [
        f"{one}, whose first file is {one.headers[0].file}" if numbers.count(one.number) > 1 else str(one)
        for one in series
    ]
    more = f" and {len(series) - LISTED} more" if len(series) > LISTED else ""
    return f"it has {', '.join(named[:LISTED])}{more}"


def _no_images(source: Path, found: Sequence[Series]) -> InputError:
    kinds = sorted({series.modality or "no modality" for series in found})
    what = "segmentations (DICOM-SEG)" if kinds == ["SEG"] else f"objects of the kind {', '.join(kinds)}"
    return InputError(f"{source} holds {what}, but no images: give the series that they were made from")
