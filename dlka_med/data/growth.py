"""Training patches that grow."""

from collections.abc import Sequence
from math import floor

SMALLEST = 0.5  # of the full size, along each axis
LEAST_UNITS = 2  # per axis, where the full patch has them: a norm needs more than one voxel of the deepest map


def grown(patch_size: Sequence[int], progress: float, growing: float, unit: Sequence[int]) -> tuple[int, ...]:
    """Voxels of a patch after a share `progress` of the training: from half the full size along each axis to all of it.

    Small patches make fast steps while there is much to learn (Fischer et al., Progressive Growing of Patch Size, 2024,
    there over the whole training).

    Args:
        patch_size: the full size.
        growing: share of the training at whose end the full size is reached; 0: from the start on.
        unit: per axis, what smaller sizes are multiples of: networks pad to it, so that others would gain nothing.
    """
    if progress >= growing:
        return tuple(patch_size)
    share = SMALLEST + (1 - SMALLEST) * progress / growing
    return tuple(
        min(max(floor(size * share / step + 0.5), LEAST_UNITS) * step, size)
        for size, step in zip(patch_size, unit, strict=True)
    )
