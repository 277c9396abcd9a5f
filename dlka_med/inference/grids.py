"""Where the voxels of the scanner's grid lie on the network's grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlka_med.data.resample import beside_halves, is_halfway, nearest_voxels, picked_axis

SNAP = 1e-3  # voxels: coordinates this close to whole numbers are whole (affines are stored as float32)
ROUNDING = 0.25  # voxels: a resampled grid has whole voxels and may end this much before the image
SHEAR = 0.1  # voxels: the largest drift across the image that still counts as parallel axes


@dataclass(frozen=True)
class Axis:
    """Where the voxels of one native axis lie on its prepared axis.

    `start` and `stop` bound the native voxels inside the prepared box; `coordinates` are theirs, in prepared
    voxels. `halfway` are the prepared slices that lie in the middle between two native ones and are copies of either,
    in turn.
    """

    native: int
    start: int
    stop: int
    coordinates: np.ndarray
    halfway: np.ndarray

    @property
    def whole(self) -> bool:
        return bool(np.all(self.coordinates == np.rint(self.coordinates)))


def match_axes(
    prepared_affine: np.ndarray,
    native_affine: np.ndarray,
    prepared_shape: tuple[int, ...],
    shape: tuple[int, ...],
) -> list[Axis]:
    """One `Axis` per prepared axis.

    Raises:
        ValueError: affines of another size, or that cannot be inverted; grids whose axes are not parallel.
    """
    dims = len(shape)
    prepared_affine, native_affine = np.asarray(prepared_affine, float), np.asarray(native_affine, float)
    for name, affine in (("prepared", prepared_affine), ("native", native_affine)):
        if affine.shape not in {(4, 4), (dims + 1, dims + 1)} or affine.shape != prepared_affine.shape:
            raise ValueError(f"the {name} affine has shape {affine.shape}, expected {(dims + 1, dims + 1)}")
        if not np.isfinite(affine).all() or np.linalg.det(affine) == 0:
            raise ValueError(f"the {name} affine cannot be inverted: {affine.tolist()}")
    to_prepared = np.linalg.solve(prepared_affine, native_affine)
    matrix, shift = to_prepared[:dims, :dims], to_prepared[:dims, -1]
    natives = np.abs(matrix).argmax(axis=1)
    scales = matrix[np.arange(dims), natives]
    oblique = matrix.copy()
    oblique[np.arange(dims), natives] = 0
    drift = np.abs(oblique) @ np.array([size - 1 for size in shape])
    if sorted(natives) != list(range(dims)) or drift.max() > SHEAR:
        raise ValueError(
            "the axes of the prepared and the native grid are not parallel "
            f"(native voxel -> prepared voxel is {to_prepared.tolist()})"
        )
    spacings = [np.linalg.norm(affine[:-1, :dims], axis=0) for affine in (native_affine, prepared_affine)]
    copied = picked_axis(spacings[0][natives], spacings[1])
    axes = []
    for index, (size, native, scale, offset) in enumerate(zip(prepared_shape, natives, scales, shift, strict=True)):
        coordinates = scale * np.arange(shape[native]) + offset
        rounded = np.rint(coordinates)
        margin = 0.5 + ROUNDING + SNAP
        if np.abs(coordinates - rounded).max() < SNAP:
            coordinates, margin = rounded, 0.5
        (inside,) = np.nonzero((coordinates > -margin) & (coordinates < size - 1 + margin))
        start, stop = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)
        halfway = np.empty(0, int)
        if index == copied and margin > 0.5:
            halfway = np.flatnonzero(is_halfway((np.arange(size) - offset) / scale))
            coordinates = _through_copies(size, scale, offset, shape[native])
        coordinates = beside_halves(coordinates[start:stop].clip(0, size - 1))
        axes.append(Axis(int(native), start, stop, coordinates, halfway))
    return axes


def _through_copies(size: int, scale: float, offset: float, native_size: int) -> np.ndarray:
    """Where native slices lie among prepared ones, each of which is a copy of the native slice nearest to it."""
    toward = np.sign(scale)
    copied = toward * nearest_voxels(toward * (np.arange(size) - offset) / scale)
    slices, members, counts = np.unique(copied, return_inverse=True, return_counts=True)
    middles = np.bincount(members, np.arange(size)) / counts
    return np.interp(np.arange(native_size), slices, middles)


def seen_box(
    prepared_affine: np.ndarray,
    native_affine: np.ndarray,
    prepared_shape: Sequence[int],
    native_shape: Sequence[int],
) -> tuple[slice, ...]:
    """The native voxels inside the prepared box, axis by axis; all others never reach the network.

    Raises:
        ValueError: as in `match_axes`.
    """
    axes = match_axes(prepared_affine, native_affine, tuple(prepared_shape), tuple(native_shape))
    return tuple(slice(axis.start, axis.stop) for axis in sorted(axes, key=lambda axis: axis.native))


def corners(
    prepared_affine: np.ndarray,
    native_affine: np.ndarray,
    prepared_shape: Sequence[int],
    native_shape: Sequence[int],
    voxels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The prepared voxels between which `restore` interpolates single native voxels.

    Args:
        voxels: indices (N, d) of native voxels, all inside `seen_box`.

    Returns:
        Indices (C, N, d) of prepared voxels and their shares (C, N), which add up to 1; C is 1 where the grids
        coincide, and doubles with every axis along which they do not.

    Raises:
        ValueError: as in `match_axes`.
    """
    axes = match_axes(prepared_affine, native_affine, tuple(prepared_shape), tuple(native_shape))
    indices, shares = np.empty((1, len(voxels), 0), np.intp), np.ones((1, len(voxels)))
    for axis in axes:
        coordinates = axis.coordinates[voxels[:, axis.native] - axis.start]
        lower = np.floor(coordinates)
        weight = coordinates - lower
        ends = [(lower, 1 - weight)] if axis.whole else [(lower, 1 - weight), (np.ceil(coordinates), weight)]
        indices, shares = (
            np.concatenate([np.dstack([indices, np.tile(end.astype(np.intp), (len(indices), 1))]) for end, _ in ends]),
            np.concatenate([shares * share for _, share in ends]),
        )
    return indices, shares
