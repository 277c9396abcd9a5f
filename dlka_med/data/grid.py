"""Where the voxels of a file lie, and whether two files agree on it."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlka_med.errors import InputError

GRID_TOLERANCE = 0.1  # voxels
RESAMPLE = "resample one onto the other's grid"


class Grid(NamedTuple):
    """Where the voxels of a file lie; affine: see `LoadedCase`; unit: of the file, in mm, None if it has none."""

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray
    unit: float | None = 1.0


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Millimetres (of a 2D image: pixels) per voxel along each array axis."""
    dims = affine.shape[0] - 1
    return np.linalg.norm(affine[:dims, :dims], axis=0)


def with_one_unit(grids: Sequence[Grid]) -> list[Grid]:
    """The grids of files that belong together, in mm: a file without a unit is in that of the others."""
    unit = next((grid.unit for grid in grids if grid.unit is not None), 1.0)
    shared = []
    for grid in grids:
        affine = grid.affine.copy()
        if grid.unit is None:
            affine[:-1] *= unit
        shared.append(grid._replace(affine=affine, unit=unit))
    return shared


def check_same_grid(first: Grid, second: Grid) -> None:
    """Raise `InputError` unless shapes agree and voxels lie within 10 % of a voxel of their counterparts."""
    if first.affine.shape != second.affine.shape:
        raise InputError(f"{first.path} and {second.path} cannot be compared: one is a volume, the other a 2D image")
    if first.shape != second.shape:
        flat = len(first.affine) == 3
        raise InputError(
            f"{first.path} has the shape {first.shape}, but {second.path} has {second.shape}: "
            + ("save both with the same size (a photograph is turned as its EXIF data say)" if flat else RESAMPLE)
        )
    shift = farthest_apart(first.affine, second.affine, first.shape)
    if not shift <= GRID_TOLERANCE * spacing_of(first.affine).min():
        raise InputError(
            f"{first.path} and {second.path} have affines that put the same voxel up to {shift:.4g} mm apart: "
            f"{RESAMPLE}, or copy the affine if only the header is wrong"
        )


def farthest_apart(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """How far two affines put a voxel of a grid apart, at most, in the unit of the affines."""
    ends = ((0, size - 1) for size in (*shape, 1)[: len(first) - 1])
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)]).T
    return float(np.linalg.norm((first - second) @ corners, axis=0).max())
