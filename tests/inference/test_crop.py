"""Predictions restricted to the box of a mask."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from torch import nn

from dlka_med import cli
from dlka_med.data.cases import Case
from dlka_med.data.prepare import Prepared
from dlka_med.data.resample import resample
from dlka_med.errors import InputError
from dlka_med.inference.crop import Crop
from dlka_med.inference.grids import match_axes
from dlka_med.inference.predict import predict_images
from dlka_med.inference.restore import restore
from dlka_med.run_folder import RunFolder

from .test_predict import SHAPE, Threshold, expected_map, make_run, oblique_affine, read, write_image

BOX = (slice(3, 5), slice(2, 6), slice(4, 5))


class Neighbours(Threshold):
    """As `Threshold`, of the mean of each voxel's neighbours."""

    def forward(self, x):
        return super().forward(nn.functional.avg_pool3d(2 * x[:, -1:], 3, 1, 1))


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Threshold())
    return make_run(tmp_path / "run")


def write_mask(path, parts, codes="RAS", value=1, shape=SHAPE):
    """Two opposite corners of a box."""
    mask = np.zeros(shape, np.uint8)
    mask[tuple(part.start for part in parts)] = mask[tuple(part.stop - 1 for part in parts)] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask, oblique_affine(codes)), path)
    return path


def widened(parts, margin=3, shape=SHAPE):
    return tuple(slice(max(p.start - margin, 0), min(p.stop + margin, n)) for p, n in zip(parts, shape, strict=True))


@pytest.mark.parametrize("codes", ["RAS", "PIR", "SAL"])
@pytest.mark.parametrize("orientation", ["RAS", "SPL", None])
@pytest.mark.parametrize("crop_foreground", [False, True])
def test_only_the_box_of_the_mask_and_half_a_window_is_predicted(run, tmp_path, codes, orientation, crop_foreground):
    run = make_run(tmp_path / "other", orientation=orientation, crop_foreground=crop_foreground)
    array = write_image(tmp_path / "scan.nii.gz", codes=codes)
    mask = write_mask(tmp_path / "mask.nii.gz", BOX, codes, value=7)
    (found,) = predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / "out", crop=mask)
    expected = np.zeros(SHAPE)
    expected[widened(BOX)] = expected_map(array)[widened(BOX)]
    np.testing.assert_array_equal(read(found), expected)
    assert (expected != expected_map(array)).any()


@pytest.mark.parametrize("spacing", [None, (0.6, 1.5, 2.0)])
def test_a_mask_of_everything_changes_nothing(run, tmp_path, monkeypatch, spacing):
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Neighbours())
    run = make_run(tmp_path / "other", spacing=spacing, intensity=[{"kind": "zscore"}])
    write_image(tmp_path / "scan.nii.gz", codes="PIR")
    (plain,) = predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / "plain")
    mask = write_mask(tmp_path / "mask.nii.gz", tuple(slice(0, size) for size in SHAPE), "PIR")
    (found,) = predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / "out", crop=mask)
    np.testing.assert_array_equal(read(found), read(plain))
    assert len(np.unique(read(plain))) == 3


@pytest.mark.slow
def test_grey_values_are_those_of_the_whole_image(run, tmp_path, monkeypatch):
    """In the mask, and as far as a voxel sees, a crop changes nothing."""
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Neighbours())
    run = make_run(tmp_path / "other", intensity=[{"kind": "zscore"}], spacing=(0.7, 1.2, 2.0))
    write_image(tmp_path / "scan.nii.gz", shape=(30, 28, 26))
    box = (slice(12, 18), slice(11, 15), slice(10, 12))
    mask = write_mask(tmp_path / "mask.nii.gz", box, shape=(30, 28, 26))
    (plain,) = predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / "plain", overlap=0.9)
    (found,) = predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / "out", overlap=0.9, crop=mask)
    assert np.mean(read(found)[box] == read(plain)[box]) > 0.95
    assert not read(found)[:8].any()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_affine_moves_with_the_part(tmp_path, dims):
    """What is restored of the part lies where it lay in the whole."""
    shape, patch, spacing = (20, 17, 13)[:dims], (4, 3, 1)[:dims], (0.5, 2.0, 1.0)[:dims]
    affine = np.diag([*spacing, 1.0])
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    mask = np.zeros(shape, np.uint8)
    box = (slice(9, 12), slice(4, 5), slice(6, 9))[:dims]
    mask[box] = 1
    ending = "png" if dims == 2 else "nii.gz"
    for name, array in (("a", np.zeros(shape, np.uint8)), ("mask", mask)):
        path = tmp_path / f"{name}.{ending}"
        Image.fromarray(array).save(path) if dims == 2 else nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    case = Case("a", (tmp_path / f"a.{ending}",))
    prepared = Prepared("a", image, None, affine, shape, affine)
    part = Crop.of(tmp_path / f"mask.{ending}", [case])(prepared, case, patch)
    expected = (slice(7, 14), slice(3, 6), slice(6, 9))[:dims]
    np.testing.assert_array_equal(part.image[0], image[0][expected])
    logits = torch.cat([torch.zeros(part.image.shape), torch.ones(part.image.shape)])
    found = restore(logits, part.affine, part.native_affine, shape)
    np.testing.assert_array_equal(np.argwhere(found).min(0), [each.start for each in expected])
    assert found.sum() == found[expected].size


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (((0, 1), (16, 17), (6, 8)), ((0, 8), (9, 17), (4, 10))),
        (((2, 3), (15, 17), (0, 13)), ((0, 8), (9, 17), (0, 13))),
        (((4, 5), (12, 13), (12, 13)), ((0, 9), (8, 17), (9, 13))),
    ],
)
def test_at_a_border_the_window_sees_the_image_and_no_padding(tmp_path, places, expected):
    shape, patch = (20, 17, 13), (8, 8, 4)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(*ends) for ends in places)] = 1
    for name, array in (("a", np.zeros(shape, np.uint8)), ("mask", mask)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    case = Case("a", (tmp_path / "a.nii.gz",))
    prepared = Prepared("a", image, None, np.eye(4), shape, np.eye(4))
    part = Crop.of(tmp_path / "mask.nii.gz", [case])(prepared, case, patch)
    np.testing.assert_array_equal(part.image[0], image[0][tuple(slice(*ends) for ends in expected)])
    np.testing.assert_array_equal(part.affine[:3, 3], [start for start, _ in expected])


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("first", range(4, 16))
def test_thick_slices_of_a_part_go_back_to_where_those_of_the_whole_go(tmp_path, flip, first):
    """At 3 mm of 5 some slices lie in the middle between two, and are copies of either in turn."""
    shape, affine = (4, 4, 20), np.diag([0.5, 0.5, 5.0 * flip, 1.0])
    image = MetaTensor(torch.arange(20.0).expand(1, *shape).clone(), affine=torch.from_numpy(np.diag([0.5, 0.5, 5, 1])))
    image, _ = resample(image, None, np.array([0.5, 0.5, 3]))
    numbers = np.arange(20.0)[::flip].astype(int)
    affine[2, 3] = 0 if flip == 1 else 19 * 5.0
    mask = np.zeros(shape, np.uint8)
    mask[..., numbers == first] = 1
    for name, array in (("a", np.zeros(shape, np.uint8)), ("mask", mask)):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    case = Case("a", (tmp_path / "a.nii.gz",))
    prepared = Prepared("a", image.numpy(), None, image.affine.numpy(), shape, affine)
    part = Crop.of(tmp_path / "mask.nii.gz", [case])(prepared, case, (4, 4, 3))
    assert part.image.shape[3] < 12
    places = []
    for one in (prepared, part):
        axis = match_axes(one.affine, affine, one.image.shape[1:], shape)[2]
        places.append(one.affine[2, 3] / 3 + axis.coordinates[np.flatnonzero(numbers == first) - axis.start])
    np.testing.assert_allclose(places[1], places[0], atol=1e-4)


def test_masks_that_cannot_be_are_told(run, tmp_path, capsys):
    for name in "ab":
        write_image(tmp_path / "images" / f"{name}.nii.gz", codes="RAS")
    masks = tmp_path / "masks"
    mask = write_mask(masks / "a.nii.gz", BOX)
    for crop, message in (
        (tmp_path / "nowhere", "does not exist"),
        (mask, "is one mask, but there are 2 cases"),
        (masks, "no mask of 1 of 2 cases, such as b: masks are called as the cases are"),
    ):
        with pytest.raises(InputError, match=message):
            predict_images(run.path, tmp_path / "images", tmp_path / "out", crop=crop)
        with pytest.raises(InputError, match=message):
            predict_images(run.path, tmp_path / "images", tmp_path / "out", crop=crop, shard=(0, 2))
    assert not (tmp_path / "out").exists()
    write_mask(masks / "b.nii.gz", BOX, value=0)
    with pytest.raises(InputError, match=r"1 of 2 cases .*\nb: .*b\.nii\.gz: the mask is empty"):
        predict_images(run.path, tmp_path / "images", tmp_path / "out", crop=masks)
    write_mask(masks / "b.nii.gz", BOX, codes="LPS")
    words = ["predict", str(run.path), str(tmp_path / "images"), "-o", str(tmp_path / "new"), "--crop", str(masks)]
    assert cli.main(words) == 2
    assert "put the same voxel up to" in capsys.readouterr().err
    cropped = make_run(tmp_path / "cropped", crop_foreground=True)
    write_mask(masks / "b.nii.gz", (slice(0, 1), slice(0, 3), slice(0, 3)))
    with pytest.raises(InputError, match=r"\nb: .*the mask lies where the image is empty and was cropped away"):
        predict_images(cropped.path, tmp_path / "images", tmp_path / "third", crop=masks)


def test_another_crop_is_another_prediction(run, tmp_path):
    write_image(tmp_path / "scan.nii.gz")
    mask = write_mask(tmp_path / "mask.nii.gz", BOX)
    predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / "out", crop=mask)
    assert predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / "out", crop=mask, skip_existing=True) == []
    with pytest.raises(InputError, match=r"crop about masks there, None now"):
        predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / "out", skip_existing=True)


@pytest.mark.parametrize("ending", [".nii.gz", ".hdr"])
def test_masks_are_told_apart_by_their_content(run, tmp_path, ending):
    """Wherever they lie; of a pair of files by both. Masks of further cases change nothing for those that are there."""
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.nii.gz")
    masks, moved = tmp_path / "masks", tmp_path / "moved"
    write_mask(masks / f"a{ending}", BOX)
    ask = {"images": tmp_path / "images", "out": tmp_path / "out", "skip_existing": True}
    predict_images(run.path, **ask, crop=masks, only=["a"])
    before = (tmp_path / "out" / "a.nii.gz").read_bytes()
    masks.rename(moved)
    write_mask(moved / f"b{ending}", BOX)
    assert [path.name for path in predict_images(run.path, **ask, crop=moved)] == ["b.nii.gz"]
    assert predict_images(run.path, **ask, crop=moved) == []
    write_mask(moved / f"b{ending}", (slice(0, 2), *BOX[1:]))
    with pytest.raises(InputError, match="label map of the case b that was cropped about another mask than it has now"):
        predict_images(run.path, **ask, crop=moved)
    assert predict_images(run.path, **ask, crop=moved, only=["a"]) == []
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == before
    again = {**ask, "skip_existing": False, "overwrite": True}
    predict_images(run.path, **again, crop=moved, only=["b"])
    assert predict_images(run.path, **ask, crop=moved) == [], "what is made anew is remembered with its mask"
