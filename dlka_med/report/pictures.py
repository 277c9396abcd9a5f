"""Slices of a case for a page: one picture of all of them, and what is drawn over each as paths of SVG."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dlka_med.data.raster import webp_of
from dlka_med.evaluation.figures import PLANES, UNKNOWN, Panel, scaled, window_of
from dlka_med.evaluation.marks import directions, round_length
from dlka_med.report.bands import Bands, averaged, bands_of
from dlka_med.report.outlines import outline

SIDE = {2: 1024, 3: 224}  # pixels of a slice along its longer side, at most
SLICES = 32  # of a plane, at most
LOSSLESS = 300_000  # pixels of a plane that are kept as they are
QUALITY = 78
OUTLINES = 350_000  # bytes of a plane, about
FEWEST = 8  # slices: before there are fewer, outlines become coarser
COARSEST = 6  # pixels
AROUND = 0.4  # of the extent of the structures, that is shown on either side of them
LEAST_AROUND = 12  # voxels
LEAST_NUMBERED = 1.5  # pixels from the middle of a structure to its border, for a number to have room

Box = tuple[slice, ...]
WORDS = ("missed", "false", "other")


@dataclass(frozen=True)
class Plane:
    """The slices of a case in one direction, in pixels; `height` is that of a slice where its width is 100.

    Attributes:
        name: sagittal, coronal or axial; empty of a 2D image.
        uri: all slices below each other, as a data URI.
        grid: rows and columns that the paths are of, which may be fewer.
        start: the slice to show first.
        numbers: of each slice in the volume, from 0; sum of all in `total`.
        reference, prediction: of each slice a path for each label.
        errors: of each slice a path for each of `WORDS`.
        uncertainty: None where it is not known.
        tags: of each slice the number of a label, from 1, and where it stands, in percent of width and height.
        letters: by side; empty where nobody knows.
        bar: share of the width, and its length in words.
    """

    name: str
    uri: str
    rows: int
    columns: int
    grid: tuple[int, int]
    height: float
    start: int
    numbers: tuple[int, ...]
    total: int
    reference: list[list[str]]
    prediction: list[list[str]]
    errors: list[list[str]]
    uncertainty: Bands | None
    tags: list[list[tuple[float, float, int]]]
    letters: Mapping[str, str]
    bar: tuple[float, str]

    @property
    def moving(self) -> dict[str, object]:
        """What changes from slice to slice."""
        keys = ("numbers", "reference", "prediction", "errors", "tags")
        found = {key: getattr(self, key) for key in keys}
        return found if self.uncertainty is None else found | {"uncertainty": self.uncertainty.paths}


def planes_of(panel: Panel, labels: Mapping[str, int]) -> list[Plane]:
    """The slices of a volume (x, y, z) about its structures in three directions, or a 2D image as it is.

    Of many slices `SLICES` are kept, of large ones every second or third pixel, and of crowded ones fewer and coarser
    outlines, so that a page stays small.

    Args:
        panel: with reference and prediction; axes run to the right, front and top.
        labels: values by name.

    Raises:
        ValueError: reference or prediction is missing.
    """
    reference, prediction = panel.reference, panel.prediction
    if reference is None or prediction is None:
        raise ValueError("slices are drawn with a reference and a prediction")
    values, spacing = list(labels.values()), panel.spacing or (1.0,) * reference.ndim
    if reference.ndim == 2:
        image = np.moveaxis(panel.image, 0, -1) if len(panel.image) == 3 else panel.image[0]
        doubt = None if panel.uncertainty is None else panel.uncertainty[None]
        picture = scaled(image, window_of(image))[None]
        flat = _Slices("", picture, reference[None], prediction[None], doubt, spacing, None)
        return [flat.plane(values, (0,), 1, 0, flat.affordable(0, values, fewest=1)[1])]
    box = _about((reference > 0) | (prediction > 0))
    image = panel.image[0][box]
    maps = (reference[box], prediction[box], None if panel.uncertainty is None else panel.uncertainty[box])
    thin = tuple(slice(None, None, -(-size // SIDE[3])) for size in image.shape)
    window = window_of(image[thin])
    return [
        _across(axis, image, window, maps, values, spacing, box[axis].start, reference.shape[axis])
        for axis in _axes(image.shape)
    ]


@dataclass(frozen=True)
class _Slices:
    """Slices as they are seen, (N, rows, columns): rows run down."""

    name: str
    pictures: NDArray
    reference: NDArray
    prediction: NDArray
    uncertainty: NDArray | None
    spacing: tuple[float, ...]
    axis: int | None

    def plane(self, values: Sequence[int], numbers: Sequence[int], total: int, start: int, step: int) -> Plane:
        """All of them; every `step`-th pixel counts for the outlines."""
        rows, columns = self.pictures.shape[1:3]
        width, height = columns * self.spacing[1], rows * self.spacing[0]
        steps = _steps(self.pictures.shape[1:3], self.axis)
        small = [averaged(picture, steps) for picture in self.pictures]
        strip = np.rint(255 * np.concatenate(small)).astype(np.uint8)
        encoded = webp_of(strip, None if strip.size <= LOSSLESS else QUALITY)
        drawn = [self.drawn(index, values, step) for index in range(len(numbers))]
        length = round_length(width)
        return Plane(
            self.name,
            "data:image/webp;base64," + base64.b64encode(encoded).decode(),
            *small[0].shape[:2],
            drawn[0].grid,
            100 * height / width,
            start,
            tuple(numbers),
            total,
            [one.reference for one in drawn],
            [one.prediction for one in drawn],
            [one.errors for one in drawn],
            None if self.uncertainty is None else bands_of(self.uncertainty, steps),
            [one.tags for one in drawn],
            {} if self.axis is None else directions(self.axis),
            (length / width, f"{length:g} {'px' if self.axis is None else 'mm'}"),
        )

    def drawn(self, index: int, values: Sequence[int], step: int) -> "_Drawn":
        steps = _steps(self.pictures.shape[1:3], self.axis)
        reference, prediction = (_thinned(one[index], steps, step) for one in (self.reference, self.prediction))
        errors = _errors(reference, prediction)
        return _Drawn(
            reference.shape,
            [outline(reference == value) for value in values],
            [outline(prediction == value) for value in values],
            [outline(errors == kind) for kind in range(1, len(WORDS) + 1)],
            list(_tags(reference if (reference > 0).any() else prediction, values)),
        )

    def affordable(self, index: int, values: Sequence[int], fewest: int = FEWEST) -> tuple[int, int]:
        """How many slices like this one may be drawn, and every how many pixels count, so that a page stays small."""
        for step in range(1, COARSEST + 1):
            size = self.drawn(index, values, step).size
            if size * fewest <= OUTLINES:
                break
        return max(1, min(SLICES, OUTLINES // max(size, 1))), step


@dataclass(frozen=True)
class _Drawn:
    """What is drawn over a slice; `grid`: rows and columns that the paths are of."""

    grid: tuple[int, int]
    reference: list[str]
    prediction: list[str]
    errors: list[str]
    tags: list[tuple[float, float, int]]

    @property
    def size(self) -> int:
        return sum(map(len, (*self.reference, *self.prediction, *self.errors)))


def _across(
    axis: int,
    image: NDArray,
    window: tuple[float, float],
    maps: tuple[NDArray, NDArray, NDArray | None],
    values: Sequence[int],
    spacing: Sequence[float],
    first: int,
    total: int,
) -> Plane:
    """The slices across an axis; the one that shows most, many labels before much of one, is the first to be seen."""
    length, others = image.shape[axis], tuple({0, 1, 2} - {axis})
    thin = tuple(slice(None) if a == axis else slice(None, None, -(-image.shape[a] // SIDE[3])) for a in range(3))
    shown = sum(np.sqrt(np.count_nonzero(one[thin] == value, axis=others)) for one in maps[:2] for value in values)
    best = int(np.argmax(shown)) if np.any(shown) else length // 2

    def seen(volume: NDArray, indices: Sequence[int]) -> NDArray:
        """Slices whose second axis runs up."""
        return np.stack([volume.take(index, axis).T[::-1] for index in indices])

    def slices(indices: Sequence[int]) -> _Slices:
        pictures = scaled(seen(image, indices), window)
        flat = tuple(spacing[other] for other in reversed(others))
        drawn = (None if one is None else seen(one, indices) for one in maps)
        return _Slices(PLANES[axis], pictures, *drawn, flat, axis)

    count, step = slices([best]).affordable(0, values)
    indices = sorted({best, *np.linspace(0, length - 1, min(length, count)).round().astype(int).tolist()})
    numbers = [first + index for index in indices]
    return slices(indices).plane(values, numbers, total, indices.index(best), step)


def _steps(shape: Sequence[int], axis: int | None) -> tuple[int, int]:
    """Every how many rows and columns are kept."""
    rows, columns = (-(-size // SIDE[2 if axis is None else 3]) for size in shape)
    return rows, columns


def _tags(labelled: NDArray, values: Sequence[int]) -> Iterator[tuple[float, float, int]]:
    """Where the number of each label has most room, as x and y in percent."""
    for number, value in enumerate(values if len(values) > 1 else (), 1):
        mask = np.pad(labelled == value, 1)
        if not mask.any():
            continue
        depth = ndimage.distance_transform_edt(mask)
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth[row, column] >= LEAST_NUMBERED:
            places = (100 * (at - 0.5) / size for at, size in zip((column, row), labelled.shape[::-1], strict=True))
            yield *(round(float(place), 1) for place in places), number


def _errors(reference: NDArray, prediction: NDArray) -> NDArray[np.uint8]:
    """1 missed, 2 not in the reference, 3 another label; nothing where the reference says nothing."""
    wrong = (reference != prediction) & (reference != UNKNOWN)
    found = np.zeros(reference.shape, np.uint8)
    found[wrong & (prediction == 0)] = 1
    found[wrong & (reference == 0)] = 2
    found[wrong & (reference != 0) & (prediction != 0)] = 3
    return found


def _about(mask: NDArray[np.bool_]) -> Box:
    """The structures with some of what surrounds them; the whole image if there are none."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return tuple(slice(0, size) for size in mask.shape)
    margins = [max(LEAST_AROUND, round(AROUND * (part.stop - part.start))) for part in found[0]]
    return tuple(
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, margin, size in zip(found[0], margins, mask.shape, strict=True)
    )


def _axes(shape: Sequence[int]) -> list[int]:
    """Across which axes a slice is more than a line; the axial plane comes first."""
    return [axis for axis in (2, 1, 0) if all(size > 1 for other, size in enumerate(shape) if other != axis)]


def _thinned(labelled: NDArray, steps: Sequence[int], every: int) -> NDArray:
    """The middle one of every so many pixels of the picture, spread over all of it, so that outlines lie where it does.

    Args:
        steps: rows and columns that make one of the picture.
    """
    places = []
    for size, step in zip(labelled.shape, steps, strict=True):
        pixels = size // step
        count = max(1, pixels // every)
        places.append(((np.arange(count) + 0.5) * (pixels * step / count)).astype(int))
    return labelled[np.ix_(*places)]
