"""Images in memory get the label maps that files of them get, and of their own kind."""

import gc
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from PIL import Image
from torch import nn

from dlka_med.data.prepare import AXIS_CODES
from dlka_med.errors import InputError
from dlka_med.inference.predict import predict_images
from dlka_med.inference.predictor import Predictor
from dlka_med.run_folder import build_run_network

from .test_predict import make_run, oblique_affine, read, write_image
from .test_predict_2d import make_run as make_run_2d  # noqa: F401
from .test_predict_2d import read as read_png


@pytest.fixture
def run(tmp_path):
    """Two channels, resampled, cropped, turned and standardised."""
    run = make_run(
        tmp_path / "run",
        ("T1", "T2"),
        spacing=(0.9, 1.1, 2.0),
        crop_foreground=True,
        orientation="LPS",
        intensity=[{"kind": "zscore_nonzero"}, {"kind": "robust"}],
    )
    torch.manual_seed(0)
    run.save_weights(build_run_network(run.config).state_dict())
    return run


@pytest.fixture
def predicted(run, tmp_path):
    """Channels of a scan (x, y, z, 2), its nibabel image, and the label map of its files."""
    channels = [write_image(tmp_path / f"images/scan_{i:04d}.nii.gz", i, "PIR") for i in range(2)]
    (path,) = predict_images(run.path, tmp_path / "images", tmp_path / "out")
    source = nib.load(tmp_path / "images/scan_0000.nii.gz")
    assert 0.05 < (read(path) > 0).mean() < 0.95
    return np.stack(channels, axis=-1), source, read(path)


def test_an_array_with_its_affine(run, predicted):
    voxels, source, expected = predicted
    before = voxels.copy()
    voxels.flags.writeable = False
    found = Predictor.of_run(str(run.path))(voxels, source.affine)
    np.testing.assert_array_equal(found, expected)
    assert (type(found), found.dtype) == (np.ndarray, np.uint8)
    np.testing.assert_array_equal(voxels, before)


def test_a_nibabel_image_of_any_unit(run, predicted):
    voxels, source, expected = predicted
    image = nib.Nifti2Image(voxels, source.affine)
    found = Predictor.of_run(run.path)(image)
    assert type(found) is nib.Nifti2Image
    np.testing.assert_array_equal(found.dataobj, expected)
    np.testing.assert_array_equal(found.affine, image.affine)
    microns = np.diag([1000, 1000, 1000, 1]) @ source.affine
    image = nib.Nifti1Image(voxels, microns)
    image.header.set_xyzt_units("micron")
    image.header["descrip"] = b"somebody"
    found = Predictor.of_run(run.path)(image)
    np.testing.assert_array_equal(found.dataobj, expected)
    assert found.header.get_xyzt_units()[0] == "micron"
    assert found.header["descrip"] == b""
    np.testing.assert_array_equal(found.affine, image.affine)


def test_a_meta_tensor(run, predicted):
    voxels, source, expected = predicted
    image = MetaTensor(torch.from_numpy(voxels).movedim(-1, 0), affine=torch.from_numpy(source.affine))
    image.meta["origin"] = "somewhere"
    found = Predictor.of_run(run.path)(image)
    assert type(found) is MetaTensor
    np.testing.assert_array_equal(found.numpy(), expected[None])
    torch.testing.assert_close(found.affine, image.affine)
    assert found.meta["origin"] == "somewhere"


def test_a_meta_tensor_goes_back_through_the_transforms_that_made_it(run, predicted):
    voxels, source, expected = predicted
    image = MetaTensor(torch.from_numpy(voxels).movedim(-1, 0), affine=torch.from_numpy(source.affine))
    turn = Orientation("SAR", labels=AXIS_CODES)
    turned = turn(image)
    assert turned.shape != image.shape
    found = Predictor.of_run(run.path)(turned)
    assert found.shape[1:] == turned.shape[1:]
    back = turn.inverse(found)
    np.testing.assert_allclose(back.affine.numpy(), source.affine, atol=1e-5)
    np.testing.assert_array_equal(back.numpy()[0], expected)


@pytest.mark.parametrize("channels", [("R", "G", "B"), ("grey",)])
def test_a_2d_image_has_its_channels_last(make_run_2d, tmp_path, channels):  # noqa: F811
    run = make_run_2d(channels)
    shape = (21, 17, 3) if len(channels) == 3 else (21, 17)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (path,) = predict_images(run.path, tmp_path / "a.png", tmp_path / "out")
    predictor = Predictor.of_run(run.path)
    found = predictor(pixels)
    np.testing.assert_array_equal(found, read_png(path))
    assert found.dtype == np.int16
    image = MetaTensor(torch.from_numpy(pixels.reshape(21, 17, -1)).movedim(-1, 0))
    np.testing.assert_array_equal(predictor(image)[0], found)
    with pytest.raises(InputError, match="an affine belongs to a volume"):
        predictor(pixels, np.eye(4))


def test_what_does_not_fit_is_refused(run, predicted):
    voxels, source, _ = predicted
    predictor = Predictor.of_run(run.path)
    broken = voxels.copy()
    broken[3, 4, 5, 1] = np.nan
    for image, affine, said in (
        (voxels, None, "needs its affine"),
        (voxels[..., :1], source.affine, r"has 1 channels, expected 2, \['T1', 'T2'\]"),
        (voxels[..., 0], source.affine, "has 1 channels"),
        (voxels[0, ..., 0], source.affine, "trained on 3D images"),
        (voxels[:0], source.affine, r"is empty, its sizes are \(0, 8, 9\) of 2 channels"),
        (broken, source.affine, "the image has 1 NaN"),
        (voxels.astype(complex), source.affine, "complex128 instead of real numbers"),
        (voxels, np.zeros((4, 4)), "singular"),
        (voxels, np.eye(3), "not 4x4"),
        (source, None, "has 1 channels"),
        (source, np.eye(4), "leave it out"),
    ):
        with pytest.raises(InputError, match=said):
            predictor(image, affine)
    for image, got in ((torch.zeros(2, 4, 4, 4), "torch.Tensor: give its numpy"), ([[1]], "list"), ("a.nii", "str")):
        for affine in (None, source.affine):
            with pytest.raises(TypeError, match=f"a numpy array, a nibabel image.* got {got}"):
                predictor(image, affine)
    with pytest.raises(ValueError, match=r"Predictor\.of_run"):
        Predictor(nn.Identity(), patch_size=(4, 4, 4))(voxels, source.affine)


@pytest.mark.slow
def test_case_after_case_holds_no_more_memory(tmp_path):
    """Nothing of a case is left when its label map is given away: neither what numpy holds nor a tensor."""
    run = make_run(tmp_path / "run", ("T1",), intensity=[{"kind": "zscore"}])
    predictor = Predictor.of_config(nn.Conv3d(1, 3, 1), run.config, patch_size=(40, 30, 20))
    random, held = np.random.default_rng(0), []
    predictor(np.zeros((40, 30, 20)), np.eye(4))  # imports what it needs
    tracemalloc.start()
    try:
        for _ in range(5):
            predictor(random.normal(size=(40, 30, 20)).astype(np.float32), oblique_affine())
            gc.collect()
            tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
            held.append((len(tensors), tracemalloc.get_traced_memory()[0]))
    finally:
        tracemalloc.stop()
    assert held[-1][0] == held[1][0]
    assert held[-1][1] - held[1][1] < 40 * 30 * 20, "three images would be 12 times as much"
