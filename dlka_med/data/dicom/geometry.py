"""Where the slices of a series lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dlka_med.data.dicom.headers import Header, Numbers, Series, intact, numbers, place, quietly, read
from dlka_med.data.dicom.source import files
from dlka_med.data.grid import GRID_TOLERANCE
from dlka_med.data.itk import LPS_TO_RAS
from dlka_med.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

SAME_DIRECTION = 1e-3  # of unit vectors
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True)
class Slice:
    """One plane of pixels, in a file or a frame of one (counted from 0); the rest as in `Header`."""

    file: str
    frame: int | None
    position: Numbers | None
    orientation: Numbers | None
    spacing: Numbers | None
    thickness: float | None


@dataclass(frozen=True)
class Stack:
    """The slices of a series as a volume (columns, rows, slices), and its voxel -> world affine (RAS, mm).

    Slices ascend along the normal of their planes. Where they are displaced within them (gantry tilt), the axes of
    the affine are sheared.
    """

    series: Series
    slices: tuple[Slice, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray


def stack(series: Series) -> Stack:
    """Sort the slices of a series.

    Raises:
        InputError: a slice does not say where it lies, they are not parallel or of different sizes, lie on one another,
            are not evenly spaced, or some are missing.
    """
    source, sizes = series.source, {(header.columns, header.rows) for header in series.headers}
    if len(sizes) > 1:
        raise InputError(f"{_named(series)} has slices of several sizes, {sorted(sizes)}: keep those of one size")
    slices = [one for header in series.headers for one in _slices(series, header)]
    for one in slices:
        _refuse_lacking(series, one)
    first = slices[0]
    for key in ("orientation", "spacing"):
        values = np.array([getattr(one, key) for one in slices])
        if np.abs(values - values[0]).max() > SAME_DIRECTION:
            what = {"orientation": "planes that are not parallel", "spacing": "pixels of different sizes"}[key]
            raise InputError(f"{_named(series)} has slices with {what}: it is no volume, keep those that agree")
    along_row, along_column = np.reshape(first.orientation, (2, 3))
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    if np.abs(lengths - 1).max() > SAME_DIRECTION or abs(along_row @ along_column) > SAME_DIRECTION:
        raise InputError(f"{place(source, first.file)} has an ImageOrientationPatient that is no pair of right angles")
    along_row, along_column = along_row / lengths[0], along_column / lengths[1]
    normal = np.cross(along_row, along_column)
    places = np.array([one.position for one in slices])
    order = np.argsort(places @ normal, kind="stable")
    slices, places = [slices[index] for index in order], places[order]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * first.spacing[1], along_column * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = _step(series, slices, places, normal), places[0]
    (size,) = sizes
    return Stack(series, tuple(slices), (*size, len(slices)), LPS_TO_RAS @ affine)


def _named(series: Series) -> str:
    return f"{series.source}, {series}"


def _slices(series: Series, header: Header) -> list[Slice]:
    if header.frames is None:
        return [Slice(header.file, None, header.position, header.orientation, header.spacing, header.thickness)]
    with quietly():
        for name, stream in files(series.source, {header.file}):
            dataset = read(series.source, name, stream, GROUPS)
            with intact(series.source, name):
                groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
                if len(groups) != header.frames:
                    raise InputError(
                        f"{place(series.source, name)} has several frames that do not say where they lie: export it as "
                        "an enhanced image, or as one file per slice"
                    )
                shared = [*(dataset.get("SharedFunctionalGroupsSequence") or ())]
                return [_of_frame(header.file, index, [group, *shared]) for index, group in enumerate(groups)]
    raise InputError(f"{place(series.source, header.file)} is no longer there")


def _of_frame(file: str, index: int, groups: Sequence["Dataset"]) -> Slice:
    """Where a frame lies, as its own group says or the one that all share."""

    def found(sequence: str, key: str, count: int) -> Numbers | None:
        items = (item for group in groups for item in group.get(sequence) or ())
        return next((value for item in items if (value := numbers(item, key, count)) is not None), None)

    measures = "PixelMeasuresSequence"
    thicknesses = (found(measures, key, 1) for key in ("SpacingBetweenSlices", "SliceThickness"))
    return Slice(
        file,
        index,
        found("PlanePositionSequence", "ImagePositionPatient", 3),
        found("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        found(measures, "PixelSpacing", 2),
        next((number[0] for number in thicknesses if number is not None and number[0] > 0), None),
    )


def _refuse_lacking(series: Series, one: Slice) -> None:
    for value, tag in (
        (one.position, "ImagePositionPatient"),
        (one.orientation, "ImageOrientationPatient"),
        (one.spacing, "PixelSpacing"),
    ):
        if value is None:
            raise InputError(
                f"{place(series.source, one.file)} lacks {tag}, so nobody knows where its pixels lie: export the "
                "series again from the archive, or choose another one with --series"
            )
    if min(one.spacing or ()) <= 0:
        raise InputError(f"{place(series.source, one.file)} has a PixelSpacing that is not positive: export it again")


def _step(series: Series, slices: Sequence[Slice], places: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """From one slice to the next, in mm."""
    count = len(slices)
    if count == 1:
        if slices[0].thickness is None:
            raise InputError(
                f"{_named(series)} is one slice that does not say how thick it is: give the folder of the whole series"
            )
        return normal * slices[0].thickness
    step = (places[-1] - places[0]) / (count - 1)
    heights = np.diff(places @ normal)
    tolerance = GRID_TOLERANCE * float(np.median(heights))
    apart = np.linalg.norm(places - (places[0] + np.arange(count)[:, None] * step), axis=1)
    if apart.max() <= tolerance and tolerance > 0:
        return step
    usual = float(np.median(heights))
    if (heights <= tolerance).any():
        raise InputError(
            f"{_named(series)} has several slices in one place: it holds several volumes, such as time points, echoes "
            "or two reconstructions; put the files of one into a folder of its own"
        )
    times = heights / usual
    gaps = np.flatnonzero(times > 1.5)
    if gaps.size and np.abs(times - np.rint(times)).max() < GRID_TOLERANCE * 2:
        at, missing = int(gaps[0]), int(np.rint(times[gaps] - 1).sum())
        raise InputError(
            f"{_named(series)} lacks {missing} slice{'s' * (missing > 1)}: the {at + 1}. and the next lie "
            f"{heights[at]:.4g} mm apart, all others {usual:.4g} mm: copy or export the series again"
        )
    if heights.max() - heights.min() > tolerance:
        raise InputError(
            f"{_named(series)} has slices from {heights.min():.4g} to {heights.max():.4g} mm apart: resample it to "
            "even distances, or give its evenly spaced part"
        )
    raise InputError(
        f"{_named(series)} has slices that do not lie behind one another on a straight line: it is no volume"
    )
