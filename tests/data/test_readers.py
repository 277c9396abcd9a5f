"""Every family of formats gives back what it was given, on the grid of its image."""

import itertools
import pickle
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from dlka_med.data.channel_files import Case
from dlka_med.data.formats import ITK_ENDINGS
from dlka_med.data.grid import Grid, check_same_grid, farthest_apart
from dlka_med.data.load import load_case
from dlka_med.data.readers import META, NIFTI, NRRD, RASTER, reader_of, write_on
from dlka_med.errors import InputError
from dlka_med.evaluation.label_maps import read_label_map

AFFINE = np.array([[-0.7, 0.1, 0, 9], [0.1, 0.7, 0.2, -8], [0, -0.1, 2.5, 7], [0, 0, 0, 1]])


def source(folder, ending, shape):
    folder.mkdir(exist_ok=True)
    path = folder / f"image{ending}"
    grey = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    if len(shape) == 2 and "nii" not in ending:
        Image.fromarray(grey).save(path)
    elif ending in ITK_ENDINGS:
        image = SimpleITK.GetImageFromArray(grey.T)
        lps = np.diag([-1, -1, 1, 1]) @ AFFINE
        image.SetSpacing(np.linalg.norm(lps[:3, :3], axis=0).tolist())
        image.SetDirection((lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        SimpleITK.WriteImage(image, str(path))
    else:
        nib.save((nib.Nifti1Pair if ending == ".hdr" else nib.Nifti1Image)(grey, AFFINE), path)
    return path, grey


@pytest.mark.parametrize(
    ("ending", "shape", "kept"),
    [
        (".nii.gz", (5, 4, 3), (5, 4, 3)),
        (".nii", (5, 4), (5, 4, 1)),
        *[(ending, (5, 4, 3), (5, 4, 3)) for ending in (".hdr", ".nrrd", ".mha", ".mhd")],
        (".png", (5, 4), (5, 4)),
        (".tif", (5, 4), (5, 4)),
    ],
)
@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_what_is_written_for_an_image_is_read_on_its_grid(tmp_path, ending, shape, kept, kind):
    path, grey = source(tmp_path, ending, shape)
    reader = reader_of(path)
    image, grid = reader.image(path, ["grey"])
    by_header = reader.grid(path)
    assert by_header.shape == grid.shape
    np.testing.assert_array_equal(by_header.affine, grid.affine)
    np.testing.assert_array_equal(image, grey.reshape(1, *kept).astype(np.float32))
    assert (image.dtype, grid.shape, len(grid.affine)) == (np.float32, kept, len(kept) + 1)
    values = np.random.default_rng(1).integers(0, 300 if kind == np.int16 else 3, kept).astype(kind)
    target = tmp_path / f"label{reader.label_ending}"
    reader.write_label(target, values, path)
    again, label_grid = reader_of(target).label(target)
    np.testing.assert_array_equal(again, values)
    assert again.dtype.itemsize == values.dtype.itemsize
    check_same_grid(grid, label_grid)
    if len(kept) == 3:
        np.testing.assert_allclose(label_grid.affine, AFFINE, rtol=1e-6)


ALL = (".nii.gz", ".nii", ".hdr", *ITK_ENDINGS)


@pytest.mark.parametrize("affine", [AFFINE, np.diag([-2.0, 1.5, 0.75, 1]), AFFINE[:, [2, 0, 1, 3]]])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_label_map_is_written_onto_any_grid(tmp_path, ending, affine):
    """In formats other than the image's: NIfTI in mm, with a qform where axes have right angles."""
    values = np.random.default_rng(0).integers(0, 300, (5, 4, 3)).astype(np.int16)
    path = tmp_path / f"a{ending}"
    write_on(path, values, Grid(tmp_path / "source", values.shape, affine))
    found, grid = reader_of(path).label(path)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_allclose(grid.affine, affine, rtol=1e-6)
    if ending.startswith(".nii"):
        header = nib.load(path).header
        assert header.get_xyzt_units()[0] == "mm"
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, int((affine[0, 1:3] == 0).all()))
        if header["qform_code"]:
            np.testing.assert_allclose(header.get_qform(), affine, rtol=1e-6)


@pytest.mark.parametrize(("image", "label"), [*itertools.pairwise([*ALL, ALL[0]])])
def test_image_and_label_may_be_of_different_formats(tmp_path, image, label):
    case = Case("a", (source(tmp_path, image, (5, 4, 3))[0],), source(tmp_path / "labels", label, (5, 4, 3))[0])
    loaded = load_case(case, ["grey"], {"background": 0} | {str(value): value for value in range(1, 200)})
    np.testing.assert_array_equal(loaded.image[0], loaded.label)


def test_analyze_is_read_as_nibabel_does_and_told(tmp_path, caplog):
    grey = np.random.default_rng(0).integers(0, 200, (5, 4, 3)).astype(np.int16)
    image = nib.AnalyzeImage(grey, None)
    image.header.set_zooms((2, 3, 4))
    nib.save(image, tmp_path / "a.hdr")
    reader = reader_of(tmp_path / "a.hdr")
    (volume,), grid = reader.image(tmp_path / "a.hdr", ["grey"])
    np.testing.assert_array_equal(volume, grey)
    np.testing.assert_array_equal(grid.affine, nib.load(tmp_path / "a.hdr").affine)
    assert "a.hdr is Analyze, which does not tell left from right" in caplog.text
    reader.write_label(tmp_path / "b.nii.gz", grey, tmp_path / "a.hdr")
    found = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(found.affine, grid.affine)
    np.testing.assert_array_equal(np.asarray(found.dataobj), grey)


@pytest.mark.parametrize("name", ["a.hdr", "a.mhd"])
def test_a_header_without_its_voxels(tmp_path, name):
    path, _ = source(tmp_path, name[1:], (5, 4, 3))
    for voxels in (".img", ".raw"):
        path.with_suffix(voxels).unlink(missing_ok=True)
    for read in (reader_of(path).grid, lambda path: reader_of(path).image(path, ["grey"]), reader_of(path).label):
        with pytest.raises(InputError, match=r"its voxels are missing: put image\.(img|raw) beside it"):
            read(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.png", "a.tif", "a.jpg"])
def test_a_damaged_header_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(InputError, match=f"{name} is no .* file"):
        reader_of(tmp_path / name).grid(tmp_path / name)


def test_the_grid_of_a_turned_photograph_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (5, 3)).save(tmp_path / "a.png", exif=exif)
    assert RASTER.grid(tmp_path / "a.png").shape == RASTER.image(tmp_path / "a.png", ["grey"])[1].shape == (5, 3)


@pytest.mark.parametrize("reader", [NIFTI, RASTER, NRRD, META])
def test_a_reader_goes_to_other_processes(reader):
    assert pickle.loads(pickle.dumps(reader)) == reader


@pytest.mark.parametrize(("ending", "shape", "reader"), [(".nii.gz", (5, 4, 3), NIFTI), (".png", (5, 4), RASTER)])
def test_a_loaded_case_carries_its_reader(tmp_path, monkeypatch, ending, shape, reader):
    path, _ = source(tmp_path, ending, shape)
    assert load_case(Case("a", (path,)), ["grey"]).reader is reader
    other = replace(reader, label_ending=".other")
    monkeypatch.setattr("dlka_med.data.load.readers_of", lambda case: (other,))
    assert load_case(Case("a", (path,)), ["grey"]).reader is other


def test_a_reader_of_a_series_goes_to_other_processes(tmp_path):
    reader = pickle.loads(pickle.dumps(reader_of(tmp_path, "7")))
    assert reader.series == "7"
    with pytest.raises(InputError, match="holds no DICOM file"):
        reader.grid(tmp_path)
    with pytest.raises(InputError, match="is DICOM, but a label map was expected"):
        reader.label(tmp_path)


def test_no_format_of_ours(tmp_path):
    with pytest.raises(InputError, match=r"notes.txt is no image file: expected a name that ends with .nii.gz"):
        reader_of(tmp_path / "notes.txt")


def test_a_label_of_colours_or_without_a_place_is_named(tmp_path):
    colours = np.zeros((5, 4, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, AFFINE), tmp_path / "colours.nii.gz")
    flat = nib.Nifti1Image(np.zeros((5, 4, 3), np.uint8), None)
    flat.set_sform(np.diag([1.0, 1, 0, 1]), code=1)
    nib.save(flat, tmp_path / "flat.nii.gz")
    with pytest.raises(InputError, match=r"colours.nii.gz holds .* instead of real numbers"):
        read_label_map(tmp_path / "colours.nii.gz")
    with pytest.raises(InputError, match=r"flat.nii.gz has a singular affine"):
        read_label_map(tmp_path / "flat.nii.gz")


@pytest.mark.parametrize("shape", [(4, 3), (5, 1, 7)])
def test_the_farthest_voxel_is_found_by_looking_at_all(tmp_path, shape):
    rng, dims = np.random.default_rng(len(shape)), len(shape)
    first = np.eye(dims + 1)
    second = first + np.vstack([rng.normal(0, 0.1, (dims, dims + 1)), np.zeros(dims + 1)])
    places = np.array([(*place, 1) for place in itertools.product(*map(range, shape))]).T
    brute = np.linalg.norm(((first - second) @ places)[:dims], axis=0).max()
    assert farthest_apart(first, second, shape) == pytest.approx(brute)
    near, far = Grid(tmp_path / "a", shape, first), Grid(tmp_path / "b", shape, second)
    with pytest.raises(InputError, match="mm apart"):
        check_same_grid(near, far)
