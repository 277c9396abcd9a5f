"""What a norm needs of a network's deepest map."""

import math
from collections.abc import Sequence


def refuse_one_voxel(patch: Sequence[int], total: Sequence[int], images: int, downsampling: str, norm: str) -> None:
    """Raise `ValueError` if a norm sees one value per channel: there is no deviation of it.

    Args:
        total: image voxels per voxel of the deepest map, per axis.
        images: that the norm takes together: the batch, or one.
        downsampling, norm: what leads to it, for the message.
    """
    voxels = math.prod(-(-size // step) for size, step in zip(patch, total, strict=True))
    if voxels * images < 2:
        raise ValueError(
            f"training.patch_size {list(patch)} leaves one voxel at the deepest stage ({downsampling} "
            f"{list(total)}), too few for {norm}: make an axis of the patch larger than its stride"
        )


def total_stride(strides: Sequence[Sequence[int]]) -> list[int]:
    """Image voxels per voxel of the deepest map, per axis."""
    return [math.prod(steps) for steps in zip(*strides, strict=True)]
