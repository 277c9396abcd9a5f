"""Volumes as stacks of slices, for 2D networks."""

import nibabel as nib
import numpy as np

from dlka_med.config.record import Plane

ACROSS = {"sagittal": 0, "coronal": 1, "axial": 2}  # world axis


def slice_axis(affine: np.ndarray, plane: Plane) -> int:
    """The array axis of a volume that runs from slice to slice of the plane nearest to `plane`.

    Args:
        affine: voxel -> world, 4x4.
    """
    worlds = nib.io_orientation(affine)[:, 0]
    return int(np.flatnonzero(worlds == ACROSS[plane])[0])
