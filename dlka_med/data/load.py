"""A case from disk, refused with a reason if anything about it is wrong."""

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Pair
from nibabel.spatialimages import HeaderDataError

from dlka_med.data.cases import Case
from dlka_med.errors import InputError

SPATIAL_DIMS = 3
GRID_TOLERANCE = 0.1  # voxels
MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}  # of a unit, by its code in xyzt_units
WHOLE_NUMBER_TOLERANCE = 1e-4


@dataclass(frozen=True)
class LoadedCase:
    """Arrays as stored: image (C, *S) float32, label (*S) uint8 class indices or None, voxel -> world (mm) affine."""

    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray


class Grid(NamedTuple):
    """Where the voxels of a file lie; affine: voxel -> world (mm), 4x4."""

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray


def load_case(case: Case, channels: Sequence[str], labels: Mapping[str, int] | None = None) -> LoadedCase:
    """Read all files of a case and check them against each other and against what the dataset declares.

    Class indices are positions in `labels` sorted by value, so that declared values may have gaps.

    Args:
        labels: names and values; None: the label file is not read.

    Raises:
        InputError: a file is truncated or no NIfTI file, grids differ, voxels are NaN or infinite, the number
            of channels is wrong, an affine is singular, or a label value is not declared.
    """
    volumes, grids = [], []
    for path in case.images:
        volume, affine = _read(path)
        volume = _channels_first(path, volume, len(channels) if len(case.images) == 1 else 1)
        _refuse_nonfinite(path, volume)
        volumes.append(volume)
        grids.append(Grid(path, volume.shape[1:], affine))
        check_same_grid(grids[0], grids[-1])
    if len(volumes) not in (1, len(channels)):
        raise InputError(f"case {case.id} has {len(volumes)} images, expected {len(channels)}: {list(channels)}")
    label = None
    if case.label is not None and labels is not None:
        label, affine = _read_label(case.label, labels)
        check_same_grid(grids[0], Grid(case.label, label.shape, affine))
    return LoadedCase(volumes[0] if len(volumes) == 1 else np.concatenate(volumes), label, grids[0].affine)


def load_label(path: Path, labels: Mapping[str, int]) -> np.ndarray:
    """Class indices (*S), uint8, of a label file on its own grid; checks and errors as in `load_case`."""
    return _read_label(path, labels)[0]


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Millimetres per voxel along each array axis."""
    dims = affine.shape[0] - 1
    return np.linalg.norm(affine[:dims, :dims], axis=0)


def affine_in_mm(image: Nifti1Pair) -> np.ndarray:
    """Voxel -> world affine in mm, 4x4; a file without a unit is taken to be in mm."""
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= MILLIMETRES.get(int(image.header["xyzt_units"]) % 8, 1.0)
    return affine


def check_same_grid(first: Grid, second: Grid) -> None:
    """Raise `InputError` unless shapes agree and voxels lie within 10 % of a voxel of their counterparts."""
    if first.shape != second.shape:
        raise InputError(
            f"{first.path} has the shape {first.shape}, but {second.path} has {second.shape}: "
            "resample one onto the other's grid"
        )
    ends = ((0, size - 1) for size in (*first.shape, 1)[:SPATIAL_DIMS])
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)]).T
    shift = np.linalg.norm((first.affine - second.affine) @ corners, axis=0).max()
    if not shift <= GRID_TOLERANCE * spacing_of(first.affine).min():
        raise InputError(
            f"{first.path} and {second.path} have affines that put the same voxel up to {shift:.4g} mm apart: "
            "resample one onto the other's grid, or copy the affine if only the header is wrong"
        )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes): copy or export it again")
    try:
        image = nib.load(path)
        if image.get_data_dtype().kind not in "iuf":
            raise InputError(
                f"{path} holds {image.get_data_dtype()} instead of real numbers: export one file per channel"
            )
        with np.errstate(over="ignore"):
            volume = np.asarray(image.dataobj, dtype=np.float32)
    except (ImageFileError, HeaderDataError) as error:
        raise InputError(
            f"{path} is no NIfTI file or has a broken header ({error}): convert or copy it again"
        ) from error
    except PermissionError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): change its rights") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is truncated or damaged ({error}): copy or export it again") from error
    affine = affine_in_mm(image)
    linear = affine[:3, :3]
    extent = np.prod(spacing_of(affine)) if np.isfinite(affine).all() else 0
    if extent == 0 or abs(np.linalg.det(linear)) < 1e-6 * extent:
        raise InputError(f"{path} has a singular affine {linear.tolist()}: mend the sform or qform of its header")
    return volume, affine


def _read_label(path: Path, labels: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    values, affine = _read(path)
    return _class_indices(path, _channels_first(path, values, 1)[0], labels), affine


def _channels_first(path: Path, volume: np.ndarray, channels: int) -> np.ndarray:
    shape = volume.shape
    while volume.ndim > SPATIAL_DIMS + 1 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    if volume.ndim == SPATIAL_DIMS:
        volume = volume[..., None]
    if volume.ndim != SPATIAL_DIMS + 1 or 0 in shape:
        raise InputError(f"{path} has the shape {shape}: expected a 3D volume, or 4D with the channels last")
    if volume.shape[-1] != channels:
        raise InputError(f"{path} has {volume.shape[-1]} channels (shape {shape}), expected {channels}")
    return np.ascontiguousarray(np.moveaxis(volume, -1, 0))


def _refuse_nonfinite(path: Path, volume: np.ndarray) -> None:
    finite = np.isfinite(volume)
    if not finite.all():
        nans = int(np.isnan(volume).sum())
        infinite = int(finite.size - finite.sum()) - nans
        raise InputError(
            f"{path} has {nans} NaN and {infinite} infinite voxels of {finite.size}: replace them, for example by 0"
        )


def _class_indices(path: Path, values: np.ndarray, labels: Mapping[str, int]) -> np.ndarray:
    _refuse_nonfinite(path, values)
    whole = np.rint(values)
    if broken := int((np.abs(values - whole) > WHOLE_NUMBER_TOLERANCE).sum()):
        raise InputError(f"{path} has {broken} voxels that are no whole numbers: a label map was expected")
    declared = np.array(sorted(labels.values()), dtype=np.float32)
    index = np.searchsorted(declared, whole).clip(max=len(declared) - 1)
    undeclared = declared[index] != whole
    if undeclared.any():
        found, counts = np.unique(whole[undeclared], return_counts=True)
        listed = ", ".join(f"{value:g} ({count} voxels)" for value, count in zip(found[:10], counts[:10], strict=True))
        raise InputError(
            f"{path} has label values that are not declared: {listed}; declared are {dict(labels)}: "
            "declare them in dataset.json or mend the file"
        )
    return index.astype(np.uint8)
