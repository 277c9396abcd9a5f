"""From the network's grid back to the scanner's grid."""

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from dlka_med.inference.grids import Axis, match_axes

SLAB_NUMBERS = 2**24  # probabilities interpolated at a time: small slabs stay in the cache and skip absent classes
IN_CACHE = 2**14  # voxels whose largest logits stay in the fastest cache


def restore(
    logits: Tensor,
    prepared_affine: np.ndarray,
    native_affine: np.ndarray,
    native_shape: Sequence[int],
    painted: Sequence[int] | None = None,
) -> np.ndarray:
    """`restore_slabs` of logits (K, *S) that are all there.

    Raises:
        ValueError: as there.
    """
    grids = tuple(logits.shape[1:]), prepared_affine, native_affine, native_shape
    return restore_slabs([(0, logits)], 0, *grids, painted)


def restore_slabs(
    slabs: Iterable[tuple[int, Tensor]],
    along: int,
    prepared_shape: Sequence[int],
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
        slabs: first row and logits (K, n, ...) of n rows, `along` in front of the other axes, K at most 256, on any
            device: consecutive, all rows of the prepared grid. Of each at most a row is held when the next comes.
        along: the prepared axis along which they follow each other.
        prepared_shape: voxels along each prepared axis, 2 or 3.
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
    dims, shape = len(prepared_shape), tuple(int(size) for size in native_shape)
    if dims not in (2, 3) or len(shape) != dims:
        raise ValueError(f"expected logits with the axes of native_shape {shape}, got {tuple(prepared_shape)}")
    axes = match_axes(prepared_affine, native_affine, tuple(prepared_shape), shape)
    native = np.zeros(shape, np.uint8)
    inside = native.transpose([axis.native for axis in axes])[tuple(slice(axis.start, axis.stop) for axis in axes)]
    target = np.moveaxis(inside, along, 0)
    decide = _pick if all(axis.whole for axis in axes) else _interpolate
    for rows, decided in decide(_checked(slabs, painted), along, axes, painted):
        target[rows] = decided
    return native


def _checked(slabs: Iterable[tuple[int, Tensor]], painted: Sequence[int] | None) -> Iterator[tuple[int, Tensor]]:
    for start, logits in slabs:
        if len(logits) > 256:
            raise ValueError(f"class indices are uint8: at most 256 classes, got {len(logits)}")
        if painted is not None and len(painted) != len(logits):
            raise ValueError(f"{len(logits)} regions in the logits, but {len(painted)} class indices to paint")
        yield start, logits


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
    axes = match_axes(prepared_affine, native_affine, tuple(logits.shape[1:]), shape)
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


def check_temperature(temperature: float) -> None:
    """Raise `ValueError` unless it is positive and finite."""
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")


def _pick(
    slabs: Iterable[tuple[int, Tensor]], along: int, axes: list[Axis], painted: Sequence[int] | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Native rows and their classes: the decision at whole coordinates."""
    wanted, *others = (axis.coordinates.astype(int) for axis in (axes[along], *axes[:along], *axes[along + 1 :]))
    for start, logits in slabs:
        (rows,) = np.nonzero((wanted >= start) & (wanted < start + logits.shape[1]))
        for row in rows:
            plane = logits[:, wanted[row] - start]
            if painted is None:
                decided = _argmax(plane)
            else:
                classes = torch.zeros(plane.shape[1:], dtype=torch.uint8, device=plane.device)
                for index, region in zip(painted, plane, strict=True):
                    classes.masked_fill_(region > 0, index)
                decided = classes.cpu().numpy()
            yield row, decided[np.ix_(*others)]


def _argmax(plane: Tensor) -> np.ndarray:
    """Class indices, uint8, of logits (K, ...): the first of equals. On CPUs torch takes many times as long for it."""
    if plane.device.type != "cpu" or plane.dtype not in (torch.float32, torch.float64):
        return plane.argmax(dim=0).to(torch.uint8).cpu().numpy()
    logits, classes = plane.detach().flatten(1).numpy(), np.zeros(plane.shape[1:], np.uint8)
    for start in range(0, classes.size, IN_CACHE):
        part, target = logits[:, start : start + IN_CACHE], classes.reshape(-1)[start : start + IN_CACHE]
        best = part[0].copy()
        for index in range(1, len(part)):
            np.putmask(target, part[index] > best, index)
            np.maximum(best, part[index], out=best)
    return classes


def _interpolate(
    slabs: Iterable[tuple[int, Tensor]], along: int, axes: list[Axis], painted: Sequence[int] | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Native rows and their classes: the decision by linearly interpolated probabilities."""
    wanted = axes[along].coordinates
    across = prod(len(axis.coordinates) for index, axis in enumerate(axes) if index != along)
    order = np.argsort(wanted, kind="stable") if across else np.empty(0, int)
    done, before = 0, None
    for start, logits in slabs:
        most = max(1, SLAB_NUMBERS // (len(logits) * max(across, prod(logits.shape[2:]))))
        last = start + logits.shape[1] - 1
        ready = int(np.searchsorted(np.ceil(wanted[order]), last, side="right"))
        while done < ready:
            rows = order[done : min(done + most, ready)]
            done += len(rows)
            lowest, highest = int(np.floor(wanted[rows[0]])), int(np.ceil(wanted[rows[-1]]))
            block = logits[:, max(lowest - start, 0) : highest - start + 1].float()
            if lowest < start:
                block = torch.cat([before, block], dim=1)
            block = block.movedim(1, along + 1).contiguous()
            taps = [
                _taps(wanted[rows] - lowest if index == along else axis.coordinates, block.device)
                for index, axis in enumerate(axes)
            ]
            decided = _likeliest(block, taps) if painted is None else _painted(block, taps, painted)
            yield rows, np.moveaxis(decided.cpu().numpy(), along, 0)
        before = logits[:, -1:].float().clone()


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
        classes.masked_fill_(probability > best, index)
        torch.maximum(best, probability, out=best)
    return classes


def _painted(block: Tensor, taps: Taps, painted: Sequence[int]) -> Tensor:
    classes = torch.zeros([len(weight) for _, _, weight in taps], dtype=torch.uint8, device=block.device)
    for index, logit in zip(painted, block, strict=True):
        if logit.max() > 0:
            classes.masked_fill_(_at(logit.sigmoid(), taps) > 0.5, index)
    return classes


def _at(volume: Tensor, taps: Taps) -> Tensor:
    """Linear interpolation."""
    for axis, (lower, upper, weight) in enumerate(taps):
        weight = weight.reshape([-1 if a == axis else 1 for a in range(len(taps))])
        volume = torch.lerp(volume.index_select(axis, lower), volume.index_select(axis, upper), weight)
    return volume
