"""PNG, TIFF and JPEG to PNG label maps, and volumes slice by slice."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.inference.predict import predict_images
from dlka_med.run_folder import RunFolder

LABELS = {"background": 0, "bright": 3, "dark": 700}
RANDOM = np.random.default_rng(0)


class Threshold(nn.Module):
    """The last channel: above 150 is class 1, below 50 is class 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, -1:]
        return torch.cat([torch.zeros_like(x), x - 150, 50 - x], dim=1)


def expected_map(pixels: np.ndarray) -> np.ndarray:
    return np.where(pixels > 150, 3, np.where(pixels < 50, 700, 0))


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """`make_run(channels, **dataset)`: a run of a 2D network that is `Threshold`; pixels reach it as they are."""
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Threshold())

    def make(channels=("R", "G", "B"), **dataset) -> RunFolder:
        config = {
            "name": "run",
            "dataset": {"root": "data", "channels": channels, "labels": LABELS} | dataset,
            "preprocessing": {"intensity": [{"kind": "none"}] * len(channels)},
            "network": {"name": "dlka_net_2d", "encoder": "test_convnext"},
            "training": {"patch_size": [8, 10]},
            "inference": {"batch_size": 3},
        }
        split = {"train": [], "validation": [], "test": []}
        run = RunFolder(tmp_path / "run")
        run.weights_file.unlink(missing_ok=True)
        run = RunFolder.create(run.path, RunConfig.model_validate(config), split)
        run.weights_file.touch()
        return run

    return make


def save(path, array) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def colours(shape=(21, 17)) -> np.ndarray:
    array = RANDOM.integers(1, 256, (*shape, 3), dtype=np.uint8)
    array[:3], array[:, -4:] = 0, 0  # cut away, and put back
    return array


def test_each_pixel_lands_where_it_came_from(make_run, tmp_path):
    run, images = make_run(), tmp_path / "images"
    arrays = [save(images / name, colours((21, 17 + i))) for i, name in enumerate(("a.png", "b.tif", "c.v2.png"))]
    found = predict_images(run.path, images, tmp_path / "out", mirror=True)
    assert [path.name for path in found] == ["a.png", "b.png", "c.v2.png"]
    for path, array in zip(found, arrays, strict=True):
        inside = expected_map(array[..., 2])
        inside[:3], inside[:, -4:] = 0, 0
        np.testing.assert_array_equal(read(path), inside)
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == {"labels": LABELS}
    with pytest.raises(InputError, match=r"a\.png exists already"):
        predict_images(run.path, images, tmp_path / "out")
    with pytest.raises(InputError, match="would replace an image"):
        predict_images(run.path, images / "a.png", images, overwrite=True)


def test_the_label_map_of_a_turned_photograph_stands_upright(make_run, tmp_path):
    array, exif = colours(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    (path,) = predict_images(make_run().path, tmp_path / "a.png", tmp_path / "out")
    assert read(path).shape == (17, 21)
    np.testing.assert_array_equal(read(path) == 3, np.rot90(array[..., 2] > 150, -1))


def test_a_file_per_channel(make_run, tmp_path):
    arrays = [save(tmp_path / "images" / f"x_000{i}.png", colours()[..., 0]) for i in range(2)]
    (path,) = predict_images(make_run(("DAPI", "GFP")).path, tmp_path / "images", tmp_path / "out")
    assert path.name == "x.png"
    np.testing.assert_array_equal(read(path) == 3, arrays[1] > 150)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_volumes_are_predicted_slice_by_slice_onto_their_grid(make_run, tmp_path, plane):
    array = RANDOM.integers(1, 256, (7, 12, 9)).astype(np.float32)
    affine = np.array([[0, 0, -1.5, 9], [2, 0, 0, -8], [0, 0.7, 0, 7], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    run = make_run(("CT",), slices=plane)
    (path,) = predict_images(run.path, tmp_path / "a.nii.gz", tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), expected_map(array))
    np.testing.assert_array_equal(nib.load(path).affine, nib.load(tmp_path / "a.nii.gz").affine)


def test_images_of_other_dims_or_channels_are_refused(make_run, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    save(tmp_path / "a.png", colours())
    with pytest.raises(InputError, match=r"was trained on 2D images .*, but .*a\.nii\.gz is one of volumes"):
        predict_images(make_run().path, tmp_path / "a.nii.gz", tmp_path / "out")
    run = make_run(("CT",), slices="axial")
    with pytest.raises(InputError, match=r"was trained on volumes .*, but .*a\.png is one of 2D images"):
        predict_images(run.path, tmp_path / "a.png", tmp_path / "out")
    with pytest.raises(InputError, match=r"a\.png has 3 channels, expected 1, \['stain'\]"):
        predict_images(make_run(("stain",)).path, tmp_path / "a.png", tmp_path / "out")
    assert not (tmp_path / "out" / "a.png").exists()


def test_a_damaged_image_does_not_stop_the_others(make_run, tmp_path):
    for name in "abc":
        save(tmp_path / "images" / f"{name}.png", colours())
    damaged = tmp_path / "images" / "b.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(InputError, match=r"1 of 3 cases.*\nb: .*b\.png is truncated or damaged"):
        predict_images(make_run().path, tmp_path / "images", tmp_path / "out")
    names = ["a.png", "c.png", "cases.json", "failed.json", "labels.json"]
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == names
