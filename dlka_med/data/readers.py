"""Who reads and writes the files of a case: one entry per family of formats."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from dlka_med.data.channel_files import Case
from dlka_med.data.dicom.volume import dicom_grid, read_dicom
from dlka_med.data.formats import ITK_ENDINGS, is_dicom, is_volume
from dlka_med.data.grid import Grid
from dlka_med.data.itk import itk_grid, read_itk, write_itk
from dlka_med.data.nifti import nifti_grid, read_nifti, write_nifti, write_nifti_on
from dlka_med.data.raster import raster_size, read_raster, read_raster_label, write_grey
from dlka_med.errors import InputError


@dataclass(frozen=True)
class Reader:
    """One family of formats; how many dimensions a file has, its grid tells. It can be sent to other processes.

    Args:
        grid: path -> where its voxels lie, by its header alone; `InputError` if that cannot be told.
        image: path and names of channels -> (C, *S) float32 and its grid; `InputError` if the file cannot be used.
        label: path -> values (*S), whole numbers in the type of the file, and their grid; `InputError` likewise.
        write_label: path, whole numbers (*S), and the image that they belong to; whole or not at all. None: only who
            knows what the labels mean can write one (`inference.dicom_seg`).
        label_ending: of what is written for an image.
        series: what a DICOM series was asked for by: its UID or number; None: the only one that there is.
    """

    grid: Callable[[Path], Grid]
    image: Callable[[Path, Sequence[str]], tuple[np.ndarray, Grid]]
    label: Callable[[Path], tuple[np.ndarray, Grid]]
    write_label: Callable[[Path, np.ndarray, Path], None] | None
    label_ending: str
    series: str | None = None


def reader_of(path: Path, series: str | None = None) -> Reader:
    """Who reads this file, or this series of DICOM files; `InputError` if nobody does."""
    if is_dicom(path):
        return Reader(
            grid=partial(dicom_grid, series=series),
            image=partial(read_dicom, series=series),
            label=_no_label,
            write_label=None,
            label_ending=".dcm",
            series=series,
        )
    if path.name.lower().endswith(ITK_ENDINGS):
        return NRRD if path.name.lower().endswith(".nrrd") else META
    return NIFTI if is_volume(path) else RASTER


def readers_of(case: Case) -> tuple[Reader, ...]:
    """Who reads each of the images of a case."""
    return tuple(map(reader_of, case.images, case.series or (None,) * len(case.images)))


def write_on(path: Path, values: np.ndarray, grid: Grid) -> None:
    """Write whole numbers (x, y, z) in the format of volumes that the name ends with; whole or not at all."""
    write = write_itk if path.name.lower().endswith(ITK_ENDINGS) else write_nifti_on
    write(path, values, grid)


def _itk(path: Path, channels: Sequence[str]) -> tuple[np.ndarray, Grid]:
    return read_itk(path, len(channels))


def _itk_label(path: Path) -> tuple[np.ndarray, Grid]:
    (values,), grid = read_itk(path, 1, as_stored=True)
    return values, grid


def _write_itk_label(path: Path, values: np.ndarray, like: Path) -> None:
    write_itk(path, values, itk_grid(like))


def _no_label(path: Path) -> tuple[np.ndarray, Grid]:
    raise InputError(f"{path} is DICOM, but a label map was expected: convert it to NIfTI, NRRD or MetaImage")


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
NRRD = Reader(
    grid=itk_grid,
    image=_itk,
    label=_itk_label,
    write_label=_write_itk_label,
    label_ending=".nrrd",
)
META = replace(NRRD, label_ending=".mha")
RASTER = Reader(
    grid=_raster_grid,
    image=_raster,
    label=_raster_label,
    write_label=_write_raster_label,
    label_ending=".png",
)
