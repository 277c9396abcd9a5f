import nibabel as nib
import numpy as np
import pytest

from dlka_med.data.slices import slice_axis


@pytest.mark.parametrize(("plane", "letters"), [("sagittal", "RL"), ("coronal", "AP"), ("axial", "SI")])
@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR", "PIL"])
def test_the_axis_across_a_plane_is_the_nearest_of_the_world(plane, letters, codes):
    to_array = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (5, 6, 7))
    affine = np.linalg.inv(to_array) @ np.diag([1, 4, 0.5, 1])
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]
    for oblique in (affine, turn @ affine):
        assert codes[slice_axis(oblique, plane)] in letters
