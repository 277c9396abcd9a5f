"""Arrays on disk in tiles, so that reading a patch costs about its own size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlka_med.errors import InputError

CUBE = 16  # voxels along an edge: a tile has about 4096, whatever its shape
SQUARE = 64


@dataclass(frozen=True)
class Tiles:
    """A stored array (C, *S), of which `tiles[:, 3:9, 0:4, ...]` reads the tiles that hold the box.

    Every read opens the file for itself: nothing is mapped or kept open, and the object may be sent to workers.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    edges: tuple[int, ...]
    offset: int

    @classmethod
    def open(cls, path: Path, shape: Sequence[int], dtype: type[np.generic]) -> "Tiles":
        """Look at a file of `write_tiles`.

        Raises:
            OSError: it cannot be read.
            ValueError: it does not hold an array of this shape and type, whole.
        """
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        counts, edges = stored.shape[: len(shape) - 1], stored.shape[len(shape) :]
        if [-(-size // edge) for size, edge in zip(shape[1:], edges, strict=True)] != list(counts):
            raise ValueError(f"{path} holds {stored.shape}, which are not the tiles of {tuple(shape)}")
        if stored.dtype != dtype:
            raise ValueError(f"{path} holds {stored.dtype}, expected {dtype.__name__}")
        return cls(path, tuple(shape), stored.dtype, edges, stored.offset)

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        """A copy of a box: one slice per axis, without steps.

        Raises:
            InputError: the file was removed or cut short.
        """
        bounds = [part.indices(size)[:2] for part, size in zip(box, self.shape, strict=True)]
        (first, last), spatial = bounds[0], bounds[1:]
        low = [start // edge for (start, _), edge in zip(spatial, self.edges, strict=True)]
        high = [max(-(-stop // edge), at) for (_, stop), edge, at in zip(spatial, self.edges, low, strict=True)]
        tiles = self._tiles(low, high)
        dims = len(self.edges)
        order = [
            dims,
            *(axis for pair in zip(range(dims), range(dims + 1, 2 * dims + 1), strict=True) for axis in pair),
        ]
        whole = [(stop - start) * edge for start, stop, edge in zip(low, high, self.edges, strict=True)]
        block = tiles.transpose(order).reshape(self.shape[0], *whole)
        inside = [
            slice(start - at * edge, stop - at * edge)
            for (start, stop), at, edge in zip(spatial, low, self.edges, strict=True)
        ]
        return np.ascontiguousarray(block[(slice(first, last), *inside)])

    def _tiles(self, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
        """Tiles (*counts, C, *edges); each row of them along the last axis is one read."""
        counts = [-(-size // edge) for size, edge in zip(self.shape[1:], self.edges, strict=True)]
        tile = self.dtype.itemsize * self.shape[0] * int(np.prod(self.edges))
        found = np.empty(
            [*(stop - start for start, stop in zip(low, high, strict=True)), self.shape[0], *self.edges], self.dtype
        )
        try:
            with self.path.open("rb", buffering=0) as file:
                for row in np.ndindex(*found.shape[: len(counts) - 1]):
                    place = (*(start + step for start, step in zip(low, row, strict=False)), low[-1])
                    file.seek(self.offset + tile * int(np.ravel_multi_index(place, counts, mode="clip")))
                    wanted = memoryview(found[row]).cast("B") if found[row].size else b""
                    if wanted and file.readinto(wanted) != len(wanted):
                        raise OSError("it ends early")
        except OSError as error:
            raise removed(self.path, error) from error
        return found


def removed(path: Path, error: Exception) -> InputError:
    """What to raise where a file of a prepared case cannot be read any more."""
    return InputError(
        f"{path} cannot be read ({error}): prepared cases were removed while they were in use; start again, with "
        "--resume where a run was training"
    )


def write_tiles(path: Path, array: np.ndarray, across: int | None = None) -> None:
    """Store (C, *S) as an .npy file of the shape (*counts, C, *edges), zero-padded to whole tiles.

    Args:
        across: spatial axis of a volume that is read slice by slice; None: patches have all axes.
    """
    spatial = array.shape[1:]
    edge = CUBE if across is None and len(spatial) == 3 else SQUARE
    counts = [size if axis == across else max(-(-size // edge), 1) for axis, size in enumerate(spatial)]
    edges = [max(-(-size // count), 1) for size, count in zip(spatial, counts, strict=True)]
    counts = [-(-size // part) for size, part in zip(spatial, edges, strict=True)]
    padded = np.zeros((len(array), *np.multiply(counts, edges)), array.dtype)
    padded[(slice(None), *map(slice, spatial))] = array
    split = padded.reshape(len(array), *(number for pair in zip(counts, edges, strict=True) for number in pair))
    dims = len(spatial)
    order = [*range(1, 2 * dims, 2), 0, *range(2, 2 * dims + 1, 2)]
    np.save(path, np.ascontiguousarray(split.transpose(order)), allow_pickle=False)
