"""Native rows out of slabs of the prepared grid, one piece after the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from dlka_med.inference.decision import Decision, likeliest
from dlka_med.inference.grids import Axis, match_axes

SLAB_NUMBERS = 2**24  # probabilities interpolated at a time: small slabs stay in the cache and skip absent classes

Taps = list[tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Piece:
    """Logits of the prepared voxels about some native rows.

    Args:
        rows: which, counted along the axis of the slabs from the first one that the network saw.
        logits: (K, *S) of prepared voxels.
        beside: (E, *S) of other numbers that came with them.
        taps: for each prepared axis the voxels between which native ones lie.
        exact: whether the centres of native voxels are those of prepared ones.
    """

    rows: np.ndarray
    logits: Tensor
    beside: Tensor
    taps: Taps
    exact: bool

    def at(self, volume: Tensor) -> Tensor:
        """Numbers of prepared voxels (*S) at the native ones, by linear interpolation."""
        for axis, (lower, upper, weight) in enumerate(self.taps):
            below = volume.index_select(axis, lower)
            if self.exact:
                volume = below
                continue
            weight = weight.reshape([-1 if a == axis else 1 for a in range(len(self.taps))])
            volume = torch.lerp(below, volume.index_select(axis, upper), weight)
        return volume

    def probabilities(self, regions: bool, temperature: float) -> Iterator[Tensor]:
        """Of each class or region at the native voxels, float32."""
        scaled = self.logits.float() / temperature
        normaliser = None if regions else torch.logsumexp(scaled, dim=0)
        for logit in scaled:
            yield self.at(logit.sigmoid() if normaliser is None else torch.exp(logit - normaliser))

    def classes(self, decision: Decision) -> np.ndarray:
        """Class indices of the native voxels, uint8."""
        decision.check(self.logits)
        if not self.exact:
            decide = self._likeliest if decision.painted is None else self._painted
            return decide(decision).cpu().numpy()
        if decision.painted is None:
            decided = likeliest(self.logits)
        else:
            painted = torch.zeros(self.logits.shape[1:], dtype=torch.uint8, device=self.logits.device)
            for (index, _, _, least), region in zip(decision.regions, self.logits, strict=True):
                painted.masked_fill_(region > least, index)
            decided = painted.cpu().numpy()
        return decided[np.ix_(*(lower.cpu().numpy() for lower, _, _ in self.taps))]

    def _likeliest(self, _decision: Decision) -> Tensor:
        normaliser = torch.logsumexp(self.logits, dim=0)
        best = torch.zeros(self._shape, device=self.logits.device)
        classes = torch.zeros(self._shape, dtype=torch.uint8, device=self.logits.device)
        for index, logit in enumerate(self.logits):
            probability = torch.exp(logit - normaliser)
            # The winner of K classes has at least 1/K, and interpolation never exceeds what it interpolates.
            if probability.max() < 0.99 / len(self.logits):
                continue
            probability = self.at(probability)
            classes.masked_fill_(probability > best, index)
            torch.maximum(best, probability, out=best)
        return classes

    def _painted(self, decision: Decision) -> Tensor:
        classes = torch.zeros(self._shape, dtype=torch.uint8, device=self.logits.device)
        for (index, threshold, temperature, least), logit in zip(decision.regions, self.logits, strict=True):
            if logit.max() > least:
                classes.masked_fill_(self.at((logit / temperature).sigmoid()) > threshold, index)
        return classes

    @property
    def _shape(self) -> list[int]:
        return [len(lower) for lower, _, _ in self.taps]


class WayBack:
    """From slabs of the prepared grid to rows of the native grid.

    Args:
        along: the prepared axis along which slabs follow each other.
        prepared_shape: voxels along each prepared axis, 2 or 3.
        prepared_affine: prepared voxel -> world (mm), 4x4; for 2D 3x3 or 4x4.
        native_affine: native voxel -> world (mm), of the same size.
        native_shape: voxels along each native axis.

    Raises:
        ValueError: shapes that do not fit, or grids whose axes are not parallel.
    """

    def __init__(
        self,
        along: int,
        prepared_shape: Sequence[int],
        prepared_affine: np.ndarray,
        native_affine: np.ndarray,
        native_shape: Sequence[int],
    ):
        dims, self.native_shape = len(prepared_shape), tuple(int(size) for size in native_shape)
        if dims not in (2, 3) or len(self.native_shape) != dims:
            raise ValueError(
                f"expected logits with the axes of native_shape {self.native_shape}, got {tuple(prepared_shape)}"
            )
        self.along = along
        self.axes = match_axes(prepared_affine, native_affine, tuple(prepared_shape), self.native_shape)

    @property
    def axis(self) -> int:
        """The native axis along which rows follow each other."""
        return self.axes[self.along].native

    def pieces(self, slabs: Iterable[tuple[int, Tensor]], beside: int = 0) -> Iterator[Piece]:
        """The native rows that the network saw, each in one piece, as soon as the slabs about it are there.

        Args:
            slabs: first row and numbers (K + `beside`, n, ...) of n rows, `along` in front of the other axes, on any
                device: consecutive, all rows of the prepared grid. Of each at most a row is held when the next comes.
            beside: how many of the channels, the last ones, are no logits.
        """
        exact = all(axis.whole for axis in self.axes)
        for rows, numbers, taps in (self._copied if exact else self._interpolated)(slabs):
            split = len(numbers) - beside
            yield Piece(rows, numbers[:split], numbers[split:], taps, exact)

    def put(self, native: np.ndarray, piece: Piece, values: np.ndarray) -> None:
        """Write what the native voxels of a piece are into an array of the native grid."""
        inside = native.transpose([axis.native for axis in self.axes])
        inside = inside[tuple(slice(axis.start, axis.stop) for axis in self.axes)]
        np.moveaxis(inside, self.along, 0)[piece.rows] = np.moveaxis(values, self.along, 0)

    def rows(self, piece: Piece) -> np.ndarray:
        """The places of a piece's rows along `axis`."""
        return self.axes[self.along].start + piece.rows

    def across(self, piece: Piece, values: np.ndarray, outside: float) -> np.ndarray:
        """The rows of a piece from end to end (n, ...), `axis` in front of the other native axes.

        Args:
            values: of the native voxels of the piece.
            outside: the value of those that the network did not see.
        """
        others = [axis for index, axis in enumerate(self.axes) if index != self.along]
        sizes = [self.native_shape[axis.native] for axis in others]
        rows = np.full((len(piece.rows), *sizes), outside, values.dtype)
        rows[(slice(None), *(slice(axis.start, axis.stop) for axis in others))] = np.moveaxis(values, self.along, 0)
        return rows.transpose([0, *(1 + np.argsort([axis.native for axis in others]))])

    def _copied(self, slabs: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[np.ndarray, Tensor, Taps]]:
        wanted = self.axes[self.along].coordinates.astype(int)
        for start, numbers in slabs:
            taps = [_taps(axis.coordinates, numbers.device) for axis in self.axes]
            taps[self.along] = _taps(np.zeros(1), numbers.device)
            (rows,) = np.nonzero((wanted >= start) & (wanted < start + numbers.shape[1]))
            for row in rows:
                place = wanted[row] - start
                yield np.array([row]), numbers[:, place : place + 1].movedim(1, self.along + 1), taps

    def _interpolated(self, slabs: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[np.ndarray, Tensor, Taps]]:
        wanted = self.axes[self.along].coordinates
        across = prod(len(axis.coordinates) for index, axis in enumerate(self.axes) if index != self.along)
        order = np.argsort(wanted, kind="stable") if across else np.empty(0, int)
        done, before = 0, None
        for start, numbers in slabs:
            most = max(1, SLAB_NUMBERS // (len(numbers) * max(across, prod(numbers.shape[2:]))))
            last = start + numbers.shape[1] - 1
            ready = int(np.searchsorted(np.ceil(wanted[order]), last, side="right"))
            while done < ready:
                rows = order[done : min(done + most, ready)]
                done += len(rows)
                lowest, highest = int(np.floor(wanted[rows[0]])), int(np.ceil(wanted[rows[-1]]))
                block = numbers[:, max(lowest - start, 0) : highest - start + 1].float()
                if lowest < start:
                    block = torch.cat([before, block], dim=1)
                block = block.movedim(1, self.along + 1).contiguous()
                yield rows, block, [self._taps_of(axis, rows, lowest, block.device) for axis in self.axes]
            before = numbers[:, -1:].float().clone()

    def _taps_of(self, axis: Axis, rows: np.ndarray, lowest: int, device: torch.device) -> tuple[Tensor, ...]:
        along = axis is self.axes[self.along]
        return _taps(axis.coordinates[rows] - lowest if along else axis.coordinates, device)


Also = Callable[[WayBack, Piece], None]
"""What else is made of the pieces of a case."""


def _taps(coordinates: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower index, upper index and the weight of the upper one."""
    lower = np.floor(coordinates)
    weight = torch.from_numpy((coordinates - lower).astype(np.float32))
    lower, upper = (
        torch.from_numpy(lower.astype(np.int64)),
        torch.from_numpy(np.ceil(coordinates).astype(np.int64)),
    )
    return lower.to(device), upper.to(device), weight.to(device)
