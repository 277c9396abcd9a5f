"""From the network's grid back to the scanner's grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dlka_med.data.resample import beside_halves, nearest_voxels, picked_axis

SNAP = 1e-3  # voxels: coordinates this close to whole numbers are whole (affines are stored as float32)
ROUNDING = 0.25  # voxels: a resampled grid has whole voxels and may end this much before the image
SHEAR = 0.1  # voxels: the largest drift across the image that still counts as parallel axes
SLAB_VOXELS = 2**21  # native voxels interpolated at a time: small slabs stay in the cache and skip absent classes


@dataclass(frozen=True)
class _Axis:
    """Where the voxels of one native axis lie on its prepared axis.

    `start` and `stop` bound the native voxels inside the prepared box; `coordinates` are theirs, in prepared
    voxels.
    """

    native: int
    start: int
    stop: int
    coordinates: np.ndarray

    @property
    def whole(self) -> bool:
        return bool(np.all(self.coordinates == np.rint(self.coordinates)))


def restore(
    logits: Tensor,
    prepared_affine: np.ndarray,
    native_affine: np.ndarray,
    native_shape: Sequence[int],
    painted: Sequence[int] | None = None,
) -> np.ndarray:
    """Turn logits of the prepared grid into the map of the likeliest class, or of regions, on the native grid.

    Where the voxel centres of both grids coincide (reorientation and cropping only), every voxel gets the
    argmax of its own logits, exactly. Elsewhere the softmax probabilities are interpolated linearly, one
    class at a time under a running maximum: memory never holds all classes of the native grid. Probabilities,
    not logits: logits have no bound, and one very sure voxel would push a border across its less sure
    neighbours, whereas probabilities put the border between two sure voxels halfway. Voxels whose centre lies
    outside the prepared box are background (0); the box of a resampled axis reaches a quarter of a voxel
    further, where rounding its length may have cut it. A native voxel in the middle between two prepared ones
    takes either side's class, in turn along the axis. Thick slices, which preprocessing does not mix, go back to
    the slices that they were copied from, see `data.resample`.

    Regions are decided one by one: a voxel belongs to one whose probability, the sigmoid of its logit, is over 0.5.

    Args:
        logits: (K, *S), K at most 256, S of 2 or 3 axes, on any device.
        prepared_affine: prepared voxel -> world (mm), 4x4; for 2D 3x3 or 4x4.
        native_affine: native voxel -> world (mm), of the same size.
        native_shape: voxels along each native axis.
        painted: the logits are those of regions: class index that each paints, over the ones before; None: the logits
            are those of classes.

    Returns:
        Class indices, uint8, of shape `native_shape`.

    Raises:
        ValueError: shapes that do not fit, or grids whose axes are not parallel.
    """
    dims = logits.ndim - 1
    shape = tuple(int(size) for size in native_shape)
    if dims not in (2, 3) or len(shape) != dims:
        raise ValueError(f"expected logits (K, *S) with the axes of native_shape {shape}, got {tuple(logits.shape)}")
    if logits.shape[0] > 256:
        raise ValueError(f"class indices are uint8: at most 256 classes, got {logits.shape[0]}")
    axes = _match_axes(prepared_affine, native_affine, tuple(logits.shape[1:]), shape)
    if painted is not None and len(painted) != len(logits):
        raise ValueError(f"{len(logits)} regions in the logits, but {len(painted)} class indices to paint")
    whole = all(axis.whole for axis in axes)
    inside = _pick(logits, axes, painted) if whole else _interpolate(logits, axes, painted)
    native = np.zeros([shape[axis.native] for axis in axes], np.uint8)
    native[tuple(slice(axis.start, axis.stop) for axis in axes)] = inside
    return np.ascontiguousarray(native.transpose(np.argsort([axis.native for axis in axes])))


def restore_probabilities(
    logits: Tensor,
    prepared_affine: np.ndarray,
    native_affine: np.ndarray,
    native_shape: Sequence[int],
    *,
    regions: bool = False,
    temperature: float = 1.0,
) -> np.ndarray:
    """Turn logits of the prepared grid into probabilities on the native grid, interpolated as in `restore`.

    Voxels outside the prepared box are surely background: class 0 has 1 there, and every region 0.

    Args:
        logits, prepared_affine, native_affine, native_shape: as in `restore`.
        regions: whether the logits are those of regions (sigmoid) or of classes (softmax).
        temperature: the logits are divided by it (Guo et al., ICML 2017, section 4.2).

    Returns:
        (K, *native_shape), float32.

    Raises:
        ValueError: as in `restore`, or the temperature is not positive.
    """
    check_temperature(temperature)
    shape = tuple(int(size) for size in native_shape)
    axes = _match_axes(prepared_affine, native_affine, tuple(logits.shape[1:]), shape)
    native = np.zeros((len(logits), *(shape[axis.native] for axis in axes)), np.float32)
    if not regions:
        native[0] = 1
    box = tuple(slice(axis.start, axis.stop) for axis in axes)
    taps = [_taps(axis.coordinates, logits.device) for axis in axes]
    normaliser = None if regions else torch.logsumexp(logits.float() / temperature, dim=0)
    for index, logit in enumerate(logits):
        logit = logit.float() / temperature
        probability = logit.sigmoid() if normaliser is None else torch.exp(logit - normaliser)
        native[index][box] = _at(probability, taps).cpu().numpy()
    order = np.argsort([axis.native for axis in axes])
    return np.ascontiguousarray(native.transpose(0, *(order + 1)))


def seen_box(
    prepared_affine: np.ndarray,
    native_affine: np.ndarray,
    prepared_shape: Sequence[int],
    native_shape: Sequence[int],
) -> tuple[slice, ...]:
    """The native voxels inside the prepared box, axis by axis; all others never reach the network.

    Raises:
        ValueError: as in `restore`.
    """
    axes = _match_axes(prepared_affine, native_affine, tuple(prepared_shape), tuple(native_shape))
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
        ValueError: as in `restore`.
    """
    axes = _match_axes(prepared_affine, native_affine, tuple(prepared_shape), tuple(native_shape))
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


def check_temperature(temperature: float) -> None:
    """Raise `ValueError` unless it is positive and finite."""
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")


def _match_axes(
    prepared_affine: np.ndarray,
    native_affine: np.ndarray,
    prepared_shape: tuple[int, ...],
    shape: tuple[int, ...],
) -> list[_Axis]:
    """One `_Axis` per prepared axis."""
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
        if index == copied and margin > 0.5:
            coordinates = _through_copies(size, scale, offset, shape[native])
        axes.append(_Axis(int(native), start, stop, beside_halves(coordinates[start:stop].clip(0, size - 1))))
    return axes


def _through_copies(size: int, scale: float, offset: float, native_size: int) -> np.ndarray:
    """Where native slices lie among prepared ones, each of which is a copy of the native slice nearest to it."""
    toward = np.sign(scale)
    copied = toward * nearest_voxels(toward * (np.arange(size) - offset) / scale)
    slices, members, counts = np.unique(copied, return_inverse=True, return_counts=True)
    middles = np.bincount(members, np.arange(size)) / counts
    return np.interp(np.arange(native_size), slices, middles)


def _pick(logits: Tensor, axes: list[_Axis], painted: Sequence[int] | None) -> np.ndarray:
    """The decision at whole coordinates."""
    if painted is None:
        # Plane by plane: argmax gives eight bytes per voxel.
        decided = torch.stack([plane.argmax(dim=0).to(torch.uint8) for plane in logits.unbind(1)])
    else:
        decided = torch.zeros(logits.shape[1:], dtype=torch.uint8, device=logits.device)
        for index, region in zip(painted, logits, strict=True):
            decided[region > 0] = index
    classes = decided.cpu().numpy()
    return classes[np.ix_(*(axis.coordinates.astype(int) for axis in axes))]


def _interpolate(logits: Tensor, axes: list[_Axis], painted: Sequence[int] | None) -> np.ndarray:
    """The decision by linearly interpolated probabilities, slab by slab along the first prepared axis."""
    inside = np.zeros([len(axis.coordinates) for axis in axes], np.uint8)
    slab = max(1, SLAB_VOXELS // max(1, inside[0].size if len(inside) else 1))
    for start in range(0, len(inside) if inside.size else 0, slab):
        rows = axes[0].coordinates[start : start + slab]
        first, last = int(np.floor(rows.min())), int(np.ceil(rows.max()))
        block = logits[:, first : last + 1].float()
        taps = [
            _taps(rows - first, block.device),
            *(_taps(axis.coordinates, block.device) for axis in axes[1:]),
        ]
        decided = _likeliest(block, taps) if painted is None else _painted(block, taps, painted)
        inside[start : start + slab] = decided.cpu().numpy()
    return inside


def _taps(coordinates: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower index, upper index and the weight of the upper one."""
    lower = np.floor(coordinates)
    weight = torch.from_numpy((coordinates - lower).astype(np.float32))
    lower, upper = (
        torch.from_numpy(lower.astype(np.int64)),
        torch.from_numpy(np.ceil(coordinates).astype(np.int64)),
    )
    return lower.to(device), upper.to(device), weight.to(device)


Taps = list[tuple[Tensor, Tensor, Tensor]]


def _likeliest(block: Tensor, taps: Taps) -> Tensor:
    normaliser = torch.logsumexp(block, dim=0)
    shape = [len(weight) for _, _, weight in taps]
    best = torch.zeros(shape, device=block.device)
    classes = torch.zeros(shape, dtype=torch.uint8, device=block.device)
    for index, logit in enumerate(block):
        probability = torch.exp(logit - normaliser)
        # The winner of K classes has at least 1/K, and interpolation never exceeds what it interpolates.
        if probability.max() < 0.99 / len(block):
            continue
        probability = _at(probability, taps)
        classes[probability > best] = index
        torch.maximum(best, probability, out=best)
    return classes


def _painted(block: Tensor, taps: Taps, painted: Sequence[int]) -> Tensor:
    classes = torch.zeros([len(weight) for _, _, weight in taps], dtype=torch.uint8, device=block.device)
    for index, logit in zip(painted, block, strict=True):
        if logit.max() > 0:
            classes[_at(logit.sigmoid(), taps) > 0.5] = index
    return classes


def _at(volume: Tensor, taps: Taps) -> Tensor:
    """Linear interpolation."""
    for axis, (lower, upper, weight) in enumerate(taps):
        weight = weight.reshape([-1 if a == axis else 1 for a in range(len(taps))])
        volume = torch.lerp(volume.index_select(axis, lower), volume.index_select(axis, upper), weight)
    return volume
