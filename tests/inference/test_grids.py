"""Where native voxels lie on the prepared grid."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from dlka_med.data.resample import resample
from dlka_med.inference.grids import match_axes


@pytest.mark.parametrize("target", [(1.0, 1.0, 3.0), (0.5, 0.5, 1.5), (0.7, 0.7, 2.1)])
@pytest.mark.parametrize("share", [(0.9, 0.8), (1.1, 0.8), (1.3, 1.1), (1.7, 0.8)])
def test_slices_three_times_as_thick_are_interpolated_both_ways(target, share):
    """Not more than three times, however affines round it: voxels lie where the affines say."""
    spacing = np.float32(target) * np.float32([share[0], share[0], share[1]])
    affine = np.diag([*spacing.astype(float), 1.0])
    image = MetaTensor(torch.arange(21.0).expand(1, 5, 5, 21).clone(), affine=torch.from_numpy(affine))
    moved, _ = resample(image, None, np.array(target))
    prepared = moved.affine.numpy()
    scale, shift = np.linalg.solve(prepared, affine)[2, 2:]
    axis = match_axes(prepared, affine, moved.shape[1:], (5, 5, 21))[2]
    size = moved.shape[3]
    np.testing.assert_allclose(axis.coordinates, (scale * np.arange(21) + shift).clip(0, size - 1), atol=1e-5)
    inner = slice(3, -3)
    np.testing.assert_allclose(moved[0, 2, 2].numpy()[inner], ((np.arange(size) - shift) / scale)[inner], atol=0.01)
