"""A case from disk, refused with a reason if anything about it is wrong."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlka_med.config.labels import IGNORED, Declared, LabelScheme
from dlka_med.data.channel_files import SEPARATE, Case
from dlka_med.data.formats import is_volume
from dlka_med.data.grid import Grid, check_same_grid, with_one_unit
from dlka_med.data.readers import Reader, reader_of, readers_of
from dlka_med.errors import InputError

WHOLE_NUMBER_TOLERANCE = 1e-4

log = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class LoadedCase:
    """Arrays as stored: image (C, *S) float32, label (*S) uint8 class indices of a `LabelScheme` or None, the affine.

    Of a volume S is (x, y, z) and the affine 4x4, voxel -> world in mm. Of a 2D image S is (rows, columns) and the
    affine 3x3, pixel -> pixel. `reader` is who read the images, and writes label maps beside them.
    """

    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    reader: Reader


def load_case(case: Case, channels: Sequence[str], labels: Declared | LabelScheme | None = None) -> LoadedCase:
    """Read all files of a case and check them against each other and against what the dataset declares.

    Args:
        labels: as declared, whose values may have gaps; None: the label file is not read.

    Raises:
        InputError: a file is damaged or of no known kind, grids differ, voxels are NaN or infinite, the number
            of channels is wrong, an affine is singular, or a label value is not declared.
    """
    if len(case.images) not in (1, len(channels)):
        raise InputError(f"case {case.id} has {len(case.images)} images, expected {len(channels)}: {list(channels)}")
    arrays, grids = [], []
    readers = readers_of(case)
    for index, (path, reader) in enumerate(zip(case.images, readers, strict=True)):
        with _hint_at_separate_images(case):
            array, grid = reader.image(path, channels if len(case.images) == 1 else channels[index : index + 1])
        refuse_nonfinite(path, array)
        arrays.append(array)
        grids.append(grid)
    label = None
    if case.label is not None and labels is not None:
        label, grid = _read_label(case.label, LabelScheme.of(labels))
        grids.append(grid)
        if grid.unit not in (None, 1.0) and all(image.unit is None for image in grids[:-1]):
            log.warning(
                "%s names no unit of length and is read in that of its label (%g mm); without the label it would be "
                "read in mm: write the unit into its header",
                grids[0].path,
                grid.unit,
            )
    grids = with_one_unit(grids)
    with _hint_at_separate_images(case):
        for grid in grids[1 : len(arrays)]:
            check_same_grid(grids[0], grid)
    if label is not None:
        check_same_grid(grids[0], grids[-1])
    image = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return LoadedCase(image if case.order is None else image[list(case.order)], label, grids[0].affine, readers[0])


def load_label(path: Path, labels: Declared | LabelScheme) -> np.ndarray:
    """Class indices (*S), uint8, of a label file on its own grid; checks and errors as in `load_case`."""
    return _read_label(path, LabelScheme.of(labels))[0]


@contextmanager
def _hint_at_separate_images(case: Case) -> Iterator[None]:
    """Numbered 2D files that do not fit together may be no channels of one image."""
    try:
        yield
    except InputError as error:
        if len(case.images) == 1 or is_volume(case.images[0]):
            raise
        raise InputError(f"{error}; {SEPARATE}") from error


def _read_label(path: Path, labels: LabelScheme) -> tuple[np.ndarray, Grid]:
    values, grid = reader_of(path).label(path)
    return _class_indices(path, values, labels), grid


def refuse_nonfinite(path: Path | str, volume: np.ndarray) -> None:
    """Raise `InputError` that names the file if a voxel is NaN or infinite."""
    finite = np.isfinite(volume)
    if not finite.all():
        nans = int(np.isnan(volume).sum())
        infinite = int(finite.size - finite.sum()) - nans
        raise InputError(
            f"{path} has {nans} NaN and {infinite} infinite voxels of {finite.size}: replace them, for example by 0"
        )


def _class_indices(path: Path, values: np.ndarray, labels: LabelScheme) -> np.ndarray:
    refuse_nonfinite(path, values)
    declared = np.array(labels.values)
    indices, broken, strange = np.empty(values.shape, np.uint8), 0, []
    for plane, target in zip(values, indices, strict=True):
        whole = np.rint(plane)
        broken += int((np.abs(plane - whole) > WHOLE_NUMBER_TOLERANCE).sum())
        target[...] = np.searchsorted(declared, whole).clip(max=len(declared) - 1)
        unknown = declared[target] != whole
        if labels.ignore is not None:
            target[whole == labels.ignore] = IGNORED
            unknown &= whole != labels.ignore
        strange.append(whole[unknown])
    if broken:
        raise InputError(f"{path} has {broken} voxels that are no whole numbers: a label map was expected")
    undeclared = np.concatenate(strange)
    if undeclared.size:
        found, counts = np.unique(undeclared, return_counts=True)
        listed = ", ".join(f"{value:g} ({count} voxels)" for value, count in zip(found[:10], counts[:10], strict=True))
        is_mask = np.isin(np.rint(values), (0, 255)).all()
        raise InputError(
            f"{path} has label values that are not declared: {listed}; declared are {labels}: "
            "declare them (dataset.labels in the config, or dataset.json) or mend the file"
            + ("; a black and white mask has to hold class numbers, such as 0 and 1" if is_mask else "")
        )
    return indices
