"""Images and labels onto a grid of another spacing."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from dlka_med.data.grid import spacing_of

SPACING_TOLERANCE = 1e-3  # mm
SHARE_TOLERANCE = 0.01  # of voxels under 0.1 mm, as of microscopes
ANISOTROPY = 3
AS_COARSE = 1e-6  # of a spacing: rounded, three times as coarse is not more than that
HALFWAY = 1e-3  # voxels: positions this close to the middle between two voxels lie on it (affines are float32)
THIN = 3  # voxels: linear interpolation eats the edges of what is thinner
ASIDE = 1e-6  # voxels: how far they then move to one side
SLAB_VOXELS = 2**18  # new voxels decided at a time


@dataclass(frozen=True)
class _Axis:
    """Centres of the new voxels of one axis, in old voxels, and whether each is a copy of the nearest old one."""

    positions: np.ndarray
    nearest: bool

    @property
    def picks(self) -> np.ndarray:
        return nearest_voxels(self.positions)

    @property
    def interpolated(self) -> bool:
        return not self.nearest and np.abs(self.positions - np.rint(self.positions)).max() > HALFWAY


def resample(image: MetaTensor, label: MetaTensor | None, spacing: np.ndarray) -> tuple[MetaTensor, MetaTensor | None]:
    """Bring a case to `spacing` (mm) about its centre; untouched if no axis changes by over 0.001 mm or 1 %.

    If one axis is over three times coarser than the finest, before or after, it is resampled by the nearest
    slice, as nnU-Net does: smooth interpolation across thick slices would invent anatomy. The image is a cubic
    spline along all other axes. Of the label the class with the largest share wins, by linear interpolation;
    where a structure is thinner than three voxels it would lose its edges to that and takes the nearest voxel.

    Where the new voxels would all lie in the middle between two old ones (an even number of them at half the
    resolution), the grid moves by half an old voxel, onto them: there every border of a label is a tie, and
    whoever breaks it moves the label against the image. Other ties go to either side in turn. So no class is
    preferred, and structures keep their volume on average over their positions.

    Args:
        image: (C, *S) float32, S of 2 or 3 axes.
        label: (1, *S) uint8 class indices.

    Returns:
        Both on the new grid, as their affines say.
    """
    source = image.affine.numpy()
    current = spacing_of(source)
    if keeps_spacing(current, spacing):
        return image, label
    coarse, scale = picked_axis(current, spacing), spacing / current
    axes = [
        _Axis(_positions(size, factor), axis == coarse)
        for axis, (size, factor) in enumerate(zip(image.shape[1:], scale, strict=True))
    ]
    step = np.diag([*scale, 1.0])
    step[:-1, -1] = [axis.positions[0] for axis in axes]
    affine = torch.from_numpy(source @ step)
    moved = torch.empty(len(image), *(len(axis.positions) for axis in axes))
    for channel, target in zip(image.as_tensor(), moved, strict=True):
        target.copy_(_spline(channel, axes))
    classes = None
    if label is not None:
        classes = MetaTensor(torch.from_numpy(_largest_share(label.numpy()[0], axes)[None]), affine=affine)
    return MetaTensor(moved, affine=affine), classes


def keeps_spacing(current: np.ndarray, spacing: np.ndarray) -> bool:
    """Whether `resample` leaves an image as it is."""
    return bool((np.abs(current - spacing) <= np.minimum(SPACING_TOLERANCE, SHARE_TOLERANCE * current)).all())


def new_shape(shape: Sequence[int], scale: Sequence[float]) -> tuple[int, ...]:
    """Voxels along each axis once they are `scale` times as long."""
    return tuple(max(int(np.rint(size / factor)), 1) for size, factor in zip(shape, scale, strict=True))


def coarse_axis(spacing: np.ndarray) -> int | None:
    """The one axis that is more than three times coarser than the finest; None if it is not just one."""
    far = np.flatnonzero(is_coarse(spacing))
    return int(far[0]) if len(far) == 1 else None


def is_coarse(spacing: np.ndarray) -> np.ndarray:
    """Which axes are more than three times coarser than the finest."""
    return spacing > ANISOTROPY * (1 + AS_COARSE) * spacing.min()


def picked_axis(before: np.ndarray, after: np.ndarray) -> int | None:
    """The axis along which `resample` copies the nearest slices: the coarse one of either spacing."""
    coarse = coarse_axis(before)
    return coarse_axis(after) if coarse is None else coarse


def beside_halves(positions: np.ndarray) -> np.ndarray:
    """Positions, in voxels, of which none is in the middle between two voxels: they step aside, down and up in turn."""
    lower, halfway = np.floor(positions), is_halfway(positions)
    aside = lower[halfway] + 0.5 - ASIDE * (-1.0) ** np.arange(halfway.sum())
    settled = positions.astype(np.float64)
    settled[halfway] = aside
    return settled


def is_halfway(positions: np.ndarray) -> np.ndarray:
    """Which positions, in voxels, are in the middle between two voxels."""
    return np.abs(positions - np.floor(positions) - 0.5) < HALFWAY


def nearest_voxels(positions: np.ndarray) -> np.ndarray:
    """The whole numbers nearest to positions, without a bias to either side."""
    return np.rint(beside_halves(positions)).astype(int)


def _positions(size: int, scale: float) -> np.ndarray:
    """Centres of the new voxels in old ones, about the middle of the old."""
    (count,) = new_shape((size,), (scale,))
    positions = (size - 1) / 2 + scale * (np.arange(count) - (count - 1) / 2)
    nearly_all_halfway = np.abs(positions - np.rint(positions)).mean() > 3 / 8
    return positions - 0.5 if nearly_all_halfway else positions


def _spline(volume: torch.Tensor, axes: list[_Axis]) -> torch.Tensor:
    """(*S) along one axis after the other, those first that leave least: memory holds three such volumes at most."""
    growth = [len(axis.positions) / size for axis, size in zip(axes, volume.shape, strict=True)]
    for index in np.argsort(growth, kind="stable").tolist():
        axis, size = axes[index], volume.shape[index]
        picks = axis.picks.clip(0, size - 1)
        if axis.interpolated:
            volume = _along(_spline_weights(size, axis.positions), volume, index)
        elif not np.array_equal(picks, np.arange(size)):
            volume = volume.index_select(index, torch.from_numpy(picks))
    return volume


def _spline_weights(size: int, positions: np.ndarray) -> torch.Tensor:
    """(new, old) float32: what every old voxel gives to each new one, the outermost going on beyond the border."""
    columns = [ndimage.map_coordinates(unit, [positions], order=3, mode="nearest") for unit in np.eye(size)]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def _along(matrix: torch.Tensor, volume: torch.Tensor, axis: int) -> torch.Tensor:
    """`matrix` (M, N) times each line of N voxels along an axis."""
    before, after = volume.shape[:axis], volume.shape[axis + 1 :]
    if not after:
        return volume @ matrix.T
    moved = torch.empty(*before, len(matrix), *after)
    lines, targets = (array.reshape(prod(before), array.shape[axis], prod(after)) for array in (volume, moved))
    for source, target in zip(lines, targets, strict=True):
        torch.mm(matrix, source, out=target)
    return moved


def _largest_share(label: np.ndarray, axes: list[_Axis]) -> np.ndarray:
    """Class indices (*S) on the new grid. The 2**dims old voxels around a new one decide, however many classes."""
    taps = []
    for axis, size in zip(axes, label.shape, strict=True):
        positions = beside_halves(axis.positions) if axis.interpolated else axis.picks
        positions = positions.clip(0, size - 1)
        lower = np.floor(positions)
        taps.append((lower.astype(int), np.ceil(positions).astype(int), positions - lower))
    moved = label[np.ix_(*(np.where(weight > 0.5, upper, lower) for lower, upper, weight in taps))]
    if any(axis.interpolated for axis in axes):
        thick = _thick(label, [index for index, axis in enumerate(axes) if axis.interpolated])
        slab = max(1, SLAB_VOXELS // prod(moved.shape[1:]))
        for start in range(0, len(moved), slab):
            rows = tuple(tap[start : start + slab] for tap in taps[0])
            _decide(label, thick, [rows, *taps[1:]], moved[start : start + slab])
    return moved


def _thick(label: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Where a voxel is part of a box or of a cross of its own class, three voxels along each of the axes.

    Boxes fill what has edges, crosses what is round.
    """
    size = [THIN if axis in axes else 1 for axis in range(label.ndim)]
    box = ndimage.minimum_filter(label, size, mode="nearest") == ndimage.maximum_filter(label, size, mode="nearest")
    thick = ndimage.maximum_filter(box, size, mode="nearest")
    sides = [tuple((*[slice(None)] * axis, part) for part in (slice(None, -1), slice(1, None))) for axis in axes]
    cross = np.ones(label.shape, bool)
    for lower, upper in sides:
        same = label[lower] == label[upper]
        cross[lower] &= same
        cross[upper] &= same
    thick |= cross
    for lower, upper in sides:
        thick[lower] |= cross[upper]
        thick[upper] |= cross[lower]
    return thick


def _decide(
    label: np.ndarray, thick: np.ndarray, taps: list[tuple[np.ndarray, np.ndarray, np.ndarray]], moved: np.ndarray
) -> None:
    """Give `moved` the class with the largest share where classes meet that are all thick."""
    first, last = taps[0][0].min(), taps[0][1].max() + 1
    low = high = label[first:last]
    solid = thick[first:last]
    for axis, (lower, upper, _) in enumerate(taps):
        near, far = (lower - first, upper - first) if axis == 0 else (lower, upper)
        low = np.minimum(low.take(near, axis), low.take(far, axis))
        high = np.maximum(high.take(near, axis), high.take(far, axis))
        solid = solid.take(near, axis) & solid.take(far, axis)
    places = np.nonzero((low != high) & solid)
    classes, weights = [], []
    for corner in itertools.product((0, 1), repeat=len(taps)):
        sides = list(zip(corner, taps, places, strict=True))
        classes.append(label[tuple(tap[side][place] for side, tap, place in sides)])
        weights.append(np.prod([(tap[2] if side else 1 - tap[2])[place] for side, tap, place in sides], axis=0))
    classes, weights = np.stack(classes), np.stack(weights)
    # Of classes with equal shares the one whose voxel is nearest.
    shares = np.stack([((classes == one) * weights).sum(axis=0) for one in classes]) + ASIDE * weights
    moved[places] = np.take_along_axis(classes, shares.argmax(axis=0)[None], axis=0)[0]
