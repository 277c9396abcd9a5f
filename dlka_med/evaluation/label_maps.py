"""Label maps on disk: find, read, name."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlka_med.config.labels import Declared, LabelScheme
from dlka_med.data.cases import is_pair, read_dataset
from dlka_med.data.description import read_description
from dlka_med.data.formats import LISTED, has_usable_name, label_files, stem, usable_files
from dlka_med.data.grid import Grid, spacing_of
from dlka_med.data.load import refuse_nonfinite
from dlka_med.data.readers import reader_of
from dlka_med.errors import InputError
from dlka_med.paths import existing


@dataclass(frozen=True)
class LabelMap:
    """Label values on the grid of an image.

    Args:
        path: where it was read.
        array: values, uint8 or uint16, (x, y, z) as stored; of a 2D image (rows, columns).
        affine: voxel -> world in mm, 4x4; of a 2D image pixel -> pixel, 3x3.
        unit: of length in the file, in mm; None if it names none.
    """

    path: Path
    array: NDArray[np.unsignedinteger]
    affine: NDArray[np.float64]
    unit: float | None = 1.0

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.path, self.array.shape, self.affine, self.unit)

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel in millilitres; None for a 2D image."""
        return float(np.prod(spacing_of(self.affine))) / 1000 if len(self.affine) == 4 else None

    def flattened(self) -> tuple[NDArray[np.unsignedinteger], tuple[float, ...]]:
        """The array and its spacing without axes of one voxel: a slice is 2D, not all surface."""
        axes = [axis for axis, size in enumerate(self.array.shape) if size > 1]
        if len(axes) < 2:
            axes = list(range(self.array.ndim))
        gone = tuple(set(range(self.array.ndim)) - set(axes))
        sizes = spacing_of(self.affine)
        return self.array.squeeze(gone), tuple(float(sizes[axis]) for axis in axes)


def read_label_map(path: Path) -> LabelMap:
    """Read a label map: NIfTI, PNG or TIFF.

    Raises:
        InputError: the file is damaged, not 2D or 3D, or holds anything but whole numbers from 0 to 65535.
    """
    values, grid = reader_of(path).label(path)
    return LabelMap(path, _as_labels(values, path), grid.affine, grid.unit)


def _as_labels(array: NDArray, path: Path) -> NDArray[np.unsignedinteger]:
    low, high = array.min(), array.max()
    if not np.isfinite([low, high]).all():
        refuse_nonfinite(path, array)
    if not (low >= 0 and high <= np.iinfo(np.uint16).max):
        raise InputError(
            f"{path}: values from {low} to {high}, but label values are whole numbers from 0 to 65535; "
            "is it an image rather than a label map?"
        )
    dtype = np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16
    if np.issubdtype(array.dtype, np.integer):
        return array.astype(dtype, copy=False)
    labels = np.empty(array.shape, dtype)
    for source, target in zip(array, labels, strict=True):
        target[...] = np.rint(source)
        if np.abs(source - target).max() > 1e-3:
            raise InputError(f"{path}: values between whole numbers; is it an image, or was it interpolated?")
    return labels


def find_label_maps(path: Path) -> dict[str, Path]:
    """Label maps of a folder, or one file, by case id: the file name without its suffix.

    Raises:
        InputError: there is no such file or folder, it holds none, or two of one id.
    """
    if existing(path, "a folder of label maps, or one of them").is_file():
        has_usable_name(path)
        return {stem(path): path}
    found = label_files(path)
    if not found:
        seg = "; DICOM-SEG is not among them, predict with --format nii.gz" if any(path.glob("*.dcm")) else ""
        raise InputError(f"{path} holds no label map: expected files that end with {LISTED}{seg}")
    return found


def find_references(path: Path, labels: Declared | None = None) -> dict[str, Path]:
    """Label maps of a folder, of a file, or of the labelled cases of a dataset, by case id.

    Channels need no names.

    Args:
        labels: instead of those in a dataset's description.
    """
    if is_dataset(path):
        dataset = read_dataset(path, labels=labels, grouped=False, named=False)
        return {case.id: case.label for case in dataset.cases if case.label is not None}
    return find_label_maps(path / "labels" if is_pair(path) else path)


def is_dataset(path: Path) -> bool:
    """Whether a folder is a dataset's root rather than a folder of label maps with a dataset.json in it."""
    return os.path.isfile(path / "dataset.json") and not usable_files(path)


def predicted_labels(predictions: Path) -> LabelScheme | None:
    """What labels.json among the predictions declares; None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    return _declared(_folder(predictions) / "labels.json")


def reference_labels(references: Path) -> LabelScheme | None:
    """What dataset.json at or beside the references declares; None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    folder = _folder(references)
    candidates = (folder / "dataset.json", folder.resolve().parent / "dataset.json")
    file = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    return None if file is None else _declared(file)


def _folder(path: Path) -> Path:
    return path if os.path.isdir(path) else path.parent


def _declared(file: Path) -> LabelScheme | None:
    if not os.path.isfile(file):
        return None
    facts = read_description(file)
    try:
        return scheme_of(facts.get("labels"))
    except ValueError as error:
        raise InputError(f'{file}: expected {{"labels": {{name: value}}}}, but {error}') from error


def scheme_of(labels: Any) -> LabelScheme:
    """The scheme of declared labels, with or without the background.

    Raises:
        ValueError: they are not as in `declared_labels`, or there is none but the background.
    """
    scheme = LabelScheme.of(labels)
    if not scheme.targets:
        raise ValueError("there is no label but background")
    return scheme
