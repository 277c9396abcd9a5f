"""Label maps lie where their image lies, whatever its header says."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dlka_med.data.nifti import GEOMETRY
from dlka_med.inference.writing import label_map_ending, write_label_map

SHAPE = (5, 4, 3)
AFFINE = np.array([[-0.7, 0.1, 0, 9], [0.1, 0.7, 0.2, -8], [0, -0.1, 2.5, 7], [0, 0, 0, 1]])
CLASSES = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
LABELS = {"background": 0, "tumour": 4, "organ": 2}


def source(path, kind=nib.Nifti1Image, qform=1, sform=1, shape=SHAPE, units=("mm", "sec")):
    image = kind(np.random.default_rng(1).normal(100, 30, shape).astype(np.int16), None)
    image.header.set_xyzt_units(*units)
    image.header.set_slope_inter(2.5, -1000)
    image.header["cal_max"], image.header["descrip"] = 80, b"J. Doe"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"J. Doe"))
    image.set_qform(AFFINE + np.diag([0, 0, 0.2, 0]), qform, strip_shears=True)
    image.set_sform(AFFINE, sform)
    nib.save(image, path)
    return nib.load(path)


@pytest.mark.parametrize(("qform", "sform"), [(0, 0), (1, 0), (0, 2), (1, 2), (3, 4)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_geometry_is_the_images(tmp_path, qform, sform, kind, name):
    image = source(tmp_path / "image.nii.gz", kind, qform, sform)
    write_label_map(tmp_path / "out" / name, CLASSES, LABELS, like=tmp_path / "image.nii.gz")
    found = nib.load(tmp_path / "out" / name)
    assert type(found) is kind
    assert found.shape == SHAPE
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(found.affine, image.affine)
    for key in GEOMETRY:
        np.testing.assert_array_equal(found.header[key], image.header[key], err_msg=key)
    assert found.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.array([0, 2, 4])[CLASSES])
    assert b"Doe" not in found.header.binaryblock
    assert not found.header.extensions


def test_a_4d_image_gives_a_3d_label_map_in_its_units(tmp_path):
    source(tmp_path / "image.nii", shape=(*SHAPE, 2), units=("micron", "msec"))
    write_label_map(tmp_path / "a.nii.gz", CLASSES, LABELS, like=tmp_path / "image.nii")
    found = nib.load(tmp_path / "a.nii.gz")
    assert found.shape == SHAPE
    assert found.header.get_xyzt_units()[0] == "micron"


@pytest.mark.parametrize(("value", "dtype"), [(255, np.uint8), (256, np.int16), (40_000, np.int32)])
def test_the_smallest_type_that_holds_the_values(tmp_path, value, dtype):
    source(tmp_path / "image.nii")
    write_label_map(tmp_path / "a.nii.gz", CLASSES, {"o": 0, "a": 1, "b": value}, like=tmp_path / "image.nii")
    found = nib.load(tmp_path / "a.nii.gz")
    assert found.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.array([0, 1, value])[CLASSES])
    write_label_map(tmp_path / "b.nii.gz", 0 * CLASSES, {"o": 0, "a": 1, "b": value}, like=tmp_path / "image.nii")
    assert nib.load(tmp_path / "b.nii.gz").get_data_dtype() == dtype


@pytest.mark.parametrize(("value", "mode"), [(255, "L"), (40_000, "I;16")])
def test_a_2d_image_gives_a_png(tmp_path, value, mode):
    like = tmp_path / "image.jpg"
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(like)
    path = tmp_path / "out" / f"a{label_map_ending(like)}"
    write_label_map(path, CLASSES[..., 0], {"o": 0, "a": 1, "b": value}, like=like)
    with Image.open(path) as found:
        assert (path.suffix, found.format, found.mode) == (".png", "PNG", mode)
        np.testing.assert_array_equal(np.asarray(found), np.array([0, 1, value])[CLASSES[..., 0]])
    with pytest.raises(ValueError, match="a whole number from 0 to 65535, got 70000"):
        write_label_map(tmp_path / "b.png", CLASSES[..., 0] * 0 + 2, {"o": 0, "a": 1, "b": 70_000}, like=like)
