"""Windows over an image, and places in it."""

import nibabel as nib
import numpy as np
import pytest

from dlka_med.config.labels import IGNORED
from dlka_med.inference.predictor import Predictor
from dlka_med.inspection.view import View, read_view

from .runs import config_of, make_run


def view(labels, patch, spacing=None, channels=2):
    labels = np.asarray(labels, np.uint8)
    image = np.random.default_rng(0).normal(size=(channels, *labels.shape)).astype(np.float32)
    empty = tuple(range(5, 5 + channels))
    return View("x", image, labels, empty, spacing or (1.0,) * labels.ndim, patch, "mm", "prediction")


def test_an_image_smaller_than_the_window_lies_in_its_middle():
    small = view(np.ones((3, 6)), (7, 4))
    window = small.around((1, 5))
    assert window.origin == (-2, 2)
    assert window.inside == (slice(2, 5), slice(0, 4))
    np.testing.assert_array_equal(window.image[:, 2:5], small.image[:, :, 2:])
    assert (window.image[1, :2] == 6).all()
    assert (window.labels[5:] == IGNORED).all()
    flat = window.flat()
    np.testing.assert_allclose(flat[:, 2:5].std((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(flat[:, 2:5].mean((1, 2)), window.image[:, 2:5].mean((1, 2)), rtol=1e-5)
    assert (flat[1, :2] == 6).all()


def test_windows_with_most_labels_come_first():
    labels = np.zeros((8, 12))
    labels[4:, 8:] = 1
    labels[0, 0] = 2
    labels[:4, 4:8] = IGNORED
    windows, number = view(labels, (4, 4)).windows(2)
    assert number == 6
    assert [window.origin for window in windows] == [(0, 0), (4, 8)]
    assert len(view(labels, (4, 4)).windows(9)[0]) == 6


def test_places_lie_on_borders_of_labels_in_turn_and_away_from_each_other():
    labels = np.zeros((40, 40))
    labels[8:20, 8:20] = 1
    labels[24:30, 24:30] = 2
    first, second, third = view(labels, (16, 16)).places(3)
    assert [labels[place] for place in (first, second, third)] == [1, 2, 1]
    for place in (first, second, third):
        around = labels[place[0] - 1 : place[0] + 2, place[1] - 1 : place[1] + 2]
        assert (around != labels[place]).any()
    assert np.linalg.norm(np.subtract(first, third)) > 10
    assert view(np.zeros((7, 9)), (4, 4)).places(3) == [(3, 4)]
    assert view([[1]], (4, 4)).places(3) == [(0, 0)]


@pytest.mark.parametrize(("plane", "codes"), [("axial", ("R", "A")), ("coronal", ("R", "S")), (None, ("R", "A", "S"))])
def test_axes_say_where_they_run(tmp_path, plane, codes):
    """Of a volume that is stored otherwise and turned as the config says; a slice lacks the axis across it."""
    dims = 3 if plane is None else 2
    sections = {} if plane is None else {"dataset": {"slices": plane}}
    sections["preprocessing"] = {"orientation": "RAS"}
    gate = {"deformation": ["absent", "dense"]} if dims == 3 else {"deformation": ["none", "dcnv3", "none"]}
    run = make_run(tmp_path / "run", config_of(dims, [8, 8, 8] if dims == 3 else [32, 32], gate, **sections))
    affine = np.array([[0, -1, 0, 0], [-2, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).random((12, 13, 9)).astype(np.float32), affine), tmp_path / "c.nii"
    )
    view = read_view(run, Predictor.of_run(run.path, device="cpu"), tmp_path / "c.nii", None)
    assert view.codes == codes
