"""A label map that is prepared and brought back at equal spacing changes no voxel, wherever its format puts it."""

import nibabel as nib
import numpy as np
import pytest
import torch

from dlka_med.config.dataset import Preprocessing
from dlka_med.data.cases import find_cases
from dlka_med.data.grid import Grid
from dlka_med.data.itk import write_itk
from dlka_med.data.prepare import prepare
from dlka_med.data.readers import reader_of
from dlka_med.inference.restore import restore
from dlka_med.inference.writing import label_map_ending, write_label_map
from tests.dicom_series import oblique, write_series

SHAPE = (9, 7, 6)
LABELS = {"background": 0, "a": 1, "b": 2}
SPACING = (1.5, 1.25, 3.0)
AFFINES = {
    "straight": np.diag([*SPACING, 1]),
    "oblique": oblique(SPACING),
    "sheared": oblique(SPACING, (0.5, 0.7)),
}
TURNED = {"as it is": np.eye(4), "permuted": np.eye(4)[:, [1, 2, 0, 3]], "flipped": np.diag([-1.0, 1, -1, 1])}


def write(path, voxels, affine):
    if path.suffix == "":
        write_series(path, voxels, affine)
    elif path.suffix in (".nrrd", ".mha"):
        write_itk(path, voxels, Grid(path, SHAPE, affine))
    else:
        nib.save((nib.Nifti1Pair if path.suffix == ".hdr" else nib.Nifti1Image)(voxels, affine), path)


NAMES = ("a.nii.gz", "a.hdr", "a.nrrd", "a.mha", "a")
PLACED = [(name, axes, turn) for name in NAMES for axes in AFFINES for turn in TURNED]
PLACED.remove(("a", "sheared", "permuted"))  # rows and columns of DICOM slices are at right angles


@pytest.mark.parametrize(("name", "axes", "turn"), PLACED)
def test_no_voxel_changes(tmp_path, name, axes, turn):
    """From its own file through the network's grid into the file that is written."""
    affine, resampled = AFFINES[axes] @ TURNED[turn], turn != "flipped"
    classes = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.int16)
    write(tmp_path / name, classes, affine)
    (case,) = find_cases(tmp_path / name, ["any"])
    spacing = None
    if resampled:
        across = np.argsort(nib.io_orientation(affine)[:, 0])
        spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0)[across].tolist())
    prepared = prepare(case, Preprocessing(spacing=spacing, crop_foreground=False), ["any"])
    assert "".join(nib.aff2axcodes(prepared.affine)) == "RAS"
    logits = torch.nn.functional.one_hot(torch.from_numpy(prepared.image[0]).long(), 3).movedim(-1, 0).float()
    back = restore(logits, prepared.affine, prepared.native_affine, SHAPE)
    np.testing.assert_array_equal(back, classes)
    form = "nii.gz" if name == "a" else None
    target = tmp_path / f"out{label_map_ending(tmp_path / name, form)}"
    write_label_map(target, back, LABELS, tmp_path / name)
    values, grid = reader_of(target).label(target)
    np.testing.assert_array_equal(values, classes)
    np.testing.assert_allclose(grid.affine, affine, rtol=1e-5, atol=1e-5)
