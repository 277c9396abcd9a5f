"""Who reads and writes the files of a case: one entry per family of formats."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlka_med.data.formats import is_volume
from dlka_med.data.grid import Grid
from dlka_med.data.nifti import nifti_grid, read_nifti, write_nifti
from dlka_med.data.raster import raster_size, read_raster, read_raster_label, write_grey


@dataclass(frozen=True)
class Reader:
    """One family of formats; how many dimensions a file has, its grid tells. It can be sent to other processes.

    Args:
        grid: path -> where its voxels lie, by its header alone; `InputError` if that cannot be told.
        image: path and names of channels -> (C, *S) float32 and its grid; `InputError` if the file cannot be used.
        label: path -> values (*S), whole numbers in the type of the file, and their grid; `InputError` likewise.
        write_label: path, whole numbers (*S), and the image that they belong to; whole or not at all.
        label_ending: of what `write_label` writes.
    """

    grid: Callable[[Path], Grid]
    image: Callable[[Path, Sequence[str]], tuple[np.ndarray, Grid]]
    label: Callable[[Path], tuple[np.ndarray, Grid]]
    write_label: Callable[[Path, np.ndarray, Path], None]
    label_ending: str


def reader_of(path: Path) -> Reader:
    """Who reads this file; `InputError` if nobody does."""
    return NIFTI if is_volume(path) else RASTER


def _nifti(path: Path, channels: Sequence[str]) -> tuple[np.ndarray, Grid]:
    return read_nifti(path, len(channels))


def _nifti_label(path: Path) -> tuple[np.ndarray, Grid]:
    (values,), grid = read_nifti(path, 1, as_stored=True)
    return values, grid


def _raster_grid(path: Path) -> Grid:
    return _pixels(path, raster_size(path))


def _raster(path: Path, channels: Sequence[str]) -> tuple[np.ndarray, Grid]:
    image = read_raster(path, channels).astype(np.float32)
    return image, _pixels(path, image.shape[1:])


def _raster_label(path: Path) -> tuple[np.ndarray, Grid]:
    values = read_raster_label(path)
    return values, _pixels(path, values.shape)


def _write_raster_label(path: Path, values: np.ndarray, like: Path) -> None:
    write_grey(path, values)


def _pixels(path: Path, shape: tuple[int, ...]) -> Grid:
    return Grid(path, shape, np.eye(3))


NIFTI = Reader(
    grid=nifti_grid,
    image=_nifti,
    label=_nifti_label,
    write_label=write_nifti,
    label_ending=".nii.gz",
)
RASTER = Reader(
    grid=_raster_grid,
    image=_raster,
    label=_raster_label,
    write_label=_write_raster_label,
    label_ending=".png",
)
