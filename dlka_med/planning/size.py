"""A size of network."""

from typing import NamedTuple

LARGE_BATCHES = (16, 8, 4)  # of 2D images


class Size(NamedTuple):
    """A size of network and batch.

    Args:
        cost: time per voxel, as a multiple of that of the small `dlka_net_3d`, in 2D of the small `dlka_net_2d`.
        least: voxels of a window below which the next size is the better choice.
    """

    words: str
    width: int
    depth: int
    batch: int
    cost: float = 1.0
    least: int = 0
    encoder: str = ""
    checkpointing: bool = False


def large_batches(size: Size) -> tuple[Size, ...]:
    """The same network in 2D with fewer and fewer images."""
    return tuple(size._replace(batch=batch) for batch in LARGE_BATCHES)
