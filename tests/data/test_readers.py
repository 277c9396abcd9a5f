"""Every family of formats gives back what it was given, on the grid of its image."""

import itertools
import pickle
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dlka_med.data.channel_files import Case
from dlka_med.data.grid import Grid, check_same_grid, farthest_apart
from dlka_med.data.load import load_case
from dlka_med.data.readers import NIFTI, RASTER, reader_of
from dlka_med.errors import InputError
from dlka_med.evaluation.label_maps import read_label_map

AFFINE = np.array([[-0.7, 0.1, 0, 9], [0.1, 0.7, 0.2, -8], [0, -0.1, 2.5, 7], [0, 0, 0, 1]])


def source(folder, ending, shape):
    path = folder / f"image{ending}"
    grey = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    if len(shape) == 2 and "nii" not in ending:
        Image.fromarray(grey).save(path)
    else:
        nib.save(nib.Nifti1Image(grey, AFFINE), path)
    return path, grey


@pytest.mark.parametrize(
    ("ending", "shape", "kept"),
    [
        (".nii.gz", (5, 4, 3), (5, 4, 3)),
        (".nii", (5, 4), (5, 4, 1)),
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


@pytest.mark.parametrize("reader", [NIFTI, RASTER])
def test_a_reader_goes_to_other_processes(reader):
    assert pickle.loads(pickle.dumps(reader)) == reader


@pytest.mark.parametrize(("ending", "shape", "reader"), [(".nii.gz", (5, 4, 3), NIFTI), (".png", (5, 4), RASTER)])
def test_a_loaded_case_carries_its_reader(tmp_path, monkeypatch, ending, shape, reader):
    path, _ = source(tmp_path, ending, shape)
    assert load_case(Case("a", (path,)), ["grey"]).reader is reader
    other = replace(reader, label_ending=".other")
    monkeypatch.setattr("dlka_med.data.load.reader_of", lambda path: other)
    assert load_case(Case("a", (path,)), ["grey"]).reader is other


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
