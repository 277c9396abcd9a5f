"""Overlapping windows over an image, whose logits are summed in a band that moves along one axis."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor

from dlka_med.errors import InputError
from dlka_med.inference.empty_windows import OnceIfEmpty
from dlka_med.inference.memory import free_memory, is_out_of_memory

Progress = Callable[[int, int], None]
CPU = torch.device("cpu")
GPU_SHARE = 0.5  # of the free GPU memory may be taken by the sums

log = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class Place:
    """A window: which part of the image (*S) it sees, and where in the window that part lies."""

    seen: tuple[slice, ...]
    inside: tuple[slice, ...]


@dataclass(frozen=True)
class Layout:
    """Windows over an image (*S), where MONAI's sliding window lays them.

    Args:
        starts: first voxels of the windows along each axis; one, 0 or less, where the image is smaller than the
            window and lies in its middle.
        axis: along which the band of their sums takes the least memory. Windows are in its order.
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    axis: int

    @classmethod
    def of(cls, shape: Sequence[int], patch: Sequence[int], overlap: float) -> "Layout":
        """Windows of `patch` voxels that have the share `overlap` in common with their neighbours."""
        if len(shape) != len(patch):
            raise ValueError(
                f"expected an image of {len(patch)} axes for windows of {tuple(patch)}, got {tuple(shape)}"
            )
        starts = []
        for size, length in zip(shape, patch, strict=True):
            step = max(int(length * (1 - overlap)), 1)
            margin = max(length - size, 0) // 2
            places = dense_patch_slices((max(size, length),), (length,), (step,))
            starts.append(tuple(int(place.start) - margin for (place,) in places))
        covered = [min(length / size, 1) for size, length in zip(shape, patch, strict=True)]
        return cls(tuple(shape), tuple(patch), tuple(starts), covered.index(min(covered)))

    @property
    def count(self) -> int:
        """How many windows there are."""
        return prod(map(len, self.starts))

    @property
    def rows(self) -> int:
        """How many voxels the band is wide."""
        return min(self.patch[self.axis], self.shape[self.axis])

    @property
    def across(self) -> tuple[int, ...]:
        """The shape of one row of the band."""
        return (*self.shape[: self.axis], *self.shape[self.axis + 1 :])

    def band_bytes(self, outputs: int) -> int:
        """What the band holds of a network with so many outputs."""
        return 4 * (outputs + 1) * self.rows * prod(self.across)

    def __iter__(self) -> Iterator[Place]:
        others = [starts for axis, starts in enumerate(self.starts) if axis != self.axis]
        for first, rest in product(self.starts[self.axis], product(*others)):
            origin = (*rest[: self.axis], first, *rest[self.axis :])
            seen, inside = [], []
            for start, length, size in zip(origin, self.patch, self.shape, strict=True):
                seen.append(slice(max(start, 0), min(start + length, size)))
                inside.append(slice(seen[-1].start - start, seen[-1].stop - start))
            yield Place(tuple(seen), tuple(inside))


@dataclass
class Load:
    """How much is done at once: windows in a forward pass; whether their logits are summed on the CPU in any case."""

    windows: int = 1
    sums_on_cpu: bool = False

    def lighten(self, sums: torch.device, why: BaseException) -> bool:
        """Do less at once, and say so; False if there is no less. `sums` is where logits are summed now."""
        if self.windows > 1:
            self.windows //= 2
            mend = f"fewer windows pass the network at once ({self.windows})"
        elif sums != CPU:
            self.sums_on_cpu = True
            mend = "logits are summed on the CPU"
        else:
            return False
        log.warning("not enough memory (%s): %s from here on", str(why).partition("\n")[0], mend)
        return True


def slabs_of_logits(
    image: np.ndarray,
    layout: Layout,
    forward: Callable[[Tensor], Tensor],
    device: torch.device,
    load: Load,
    *,
    empty: Sequence[float] = (),
    progress: Progress | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Logits of an image (C, *S) by overlapping windows with Gaussian weights, as MONAI's `SlidingWindowInferer` sums
    them, slab by slab along `layout.axis`.

    Only the rows that later windows still reach are held. A lack of memory is answered with less at once. Windows that
    see nothing but empty voxels pass the network once.

    Args:
        forward: windows (B, C, *patch) on `device` -> logits (B, K, *patch), float32.
        load: how much is done at once; it becomes less where memory lacks.
        empty: what lies around the image, one value per channel; without them 0.
        progress: is called with the number of windows done and of all windows after each forward pass.

    Yields:
        First row and logits (K, n, ...), `layout.axis` in front of the other axes: consecutive, of all rows. They
        are on `device`, or on the CPU if the band is too large for a GPU, and overwritten when the next are asked for.
    """
    places, done, band = list(layout), 0, None
    passed = OnceIfEmpty(lambda windows: forward(windows.to(device)), empty)
    while done < len(places):
        part = places[done : done + load.windows]
        try:
            logits = passed(_cut(image, part, layout.patch, empty))
            if band is None:
                band = _Band(layout, logits.shape[1], _sum_device(layout.band_bytes(logits.shape[1]), device, load))
        except Exception as error:
            sums = band.device if band else _sum_device(0, device, load)
            if not (is_out_of_memory(error) and load.lighten(sums, error)):
                raise
            logits = None
        if logits is None:
            if device.type == "cuda":
                torch.cuda.empty_cache()
            if band is not None and load.sums_on_cpu:
                band.move(CPU)
            continue
        done += len(part)
        if progress is not None:
            progress(done, len(places))
        for place, one in zip(part, logits, strict=True):
            yield from band.release(place.seen[layout.axis].start)
            band.add(place, one)
        del logits, one
    yield from band.release(layout.shape[layout.axis])
    log.debug("%d of %d windows saw empty voxels alone and did not pass the network", passed.spared, len(places))


def finite(slabs: Iterable[tuple[int, Tensor]], case_id: str) -> Iterator[tuple[int, Tensor]]:
    """The slabs as they are; `InputError` that names the case at the first with NaN or infinite logits."""
    for start, logits in slabs:
        if not logits.sum().isfinite():
            raise InputError(
                f"case {case_id}: the network gives NaN or infinite logits, its weights are broken: "
                "train again with a lower learning rate, or in fp32"
            )
        yield start, logits


def _cut(image: np.ndarray, places: Sequence[Place], patch: tuple[int, ...], empty: Sequence[float]) -> Tensor:
    """Windows (B, C, *patch)."""
    windows = np.empty((len(places), len(image), *patch), np.float32)
    around = np.array(empty or [0.0] * len(image), np.float32).reshape(-1, *[1] * len(patch))
    for window, place in zip(windows, places, strict=True):
        part = image[(slice(None), *place.seen)]
        if part.shape[1:] != patch:
            window[...] = around
        window[(slice(None), *place.inside)] = part
    return torch.from_numpy(windows)


def _sum_device(needed: int, device: torch.device, load: Load) -> torch.device:
    """Where so many bytes of sums find room; as much again is left for what is done with them."""
    if load.sums_on_cpu:
        return CPU
    return device if device.type != "cuda" or needed < GPU_SHARE * free_memory(device) else CPU


class _Band:
    """Sums of weighted logits and of their weights, of the rows that windows reach: a ring of rows along one axis."""

    def __init__(self, layout: Layout, outputs: int, device: torch.device):
        self.axis, self.first, self.device = layout.axis, 0, device
        self.sums = torch.zeros(layout.rows, outputs + 1, *layout.across, device=device)
        weight = compute_importance_map(layout.patch, mode="gaussian", device=device)
        self.weight = _rows_first(weight[None], layout.axis)

    def add(self, place: Place, logits: Tensor) -> None:
        """The logits (K, *patch) of a window that covers every row of the band."""
        across = [part for axis, part in enumerate(place.seen) if axis != self.axis]
        covered = [part for axis, part in enumerate(place.inside) if axis != self.axis]
        inside = (place.inside[self.axis], slice(None), *covered)
        logits, weight = _rows_first(logits, self.axis).to(self.device)[inside], self.weight[inside]
        for rows, ring in self._turns(self.first, self.first + len(self.sums)):
            self.sums[(ring, slice(-1), *across)].addcmul_(logits[rows], weight[rows])
            self.sums[(ring, slice(-1, None), *across)] += weight[rows]

    def release(self, stop: int) -> Iterator[tuple[int, Tensor]]:
        """The logits of all rows before `stop`, whose places in the ring are free for those that follow."""
        start, self.first = self.first, stop
        for rows, ring in self._turns(start, stop):
            done = self.sums[ring]
            yield start + rows.start, done[:, :-1].div_(done[:, -1:]).transpose(0, 1)
            done.zero_()

    def move(self, device: torch.device) -> None:
        self.sums, self.weight, self.device = self.sums.to(device), self.weight.to(device), device

    def _turns(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Rows `start` ... `stop` of the image, counted from `start`, and their places in the ring: one run or two."""
        size, row = len(self.sums), start
        while row < stop:
            place = row % size
            length = min(stop - row, size - place)
            yield slice(row - start, row - start + length), slice(place, place + length)
            row += length


def _rows_first(logits: Tensor, axis: int) -> Tensor:
    """(K, *S) as (rows, K, ...): a view, but for the last axis, where PyTorch copies faster than it strides."""
    if axis == logits.ndim - 2:
        return logits.flatten(0, -2).t().contiguous().unflatten(1, logits.shape[:-1])
    return logits.movedim(axis + 1, 0)
