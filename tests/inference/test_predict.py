"""Images on disk to label maps on their own grids."""

import json
import logging
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import nn

from dlka_med.config.schema import RunConfig
from dlka_med.data.readers import NIFTI
from dlka_med.errors import InputError
from dlka_med.inference import predict as predict_module
from dlka_med.inference.predict import predict_images
from dlka_med.inference.predictor import Predictor
from dlka_med.run_folder import RunFolder, build_run_network

SHAPE = (11, 8, 9)
SPLIT = {"train": ["scan0", "scan1"], "validation": ["scan2"], "test": []}
LABELS = {"background": 0, "bright": 3, "dark": 7}


def make_run(folder, channels=("T1",), labels=LABELS, **preprocessing) -> RunFolder:
    """A run whose network is `Threshold`; voxels reach it unnormalised."""
    plain = {"spacing": None, "crop_foreground": False, "intensity": [{"kind": "none"}] * len(channels)}
    config = RunConfig.model_validate(
        {
            "name": "run",
            "dataset": {"root": "data", "channels": channels, "labels": labels},
            "preprocessing": plain | preprocessing,
            "network": {
                "name": "dlka_net_3d",
                "channels": [4, 8],
                "depths": [1, 1],
                "strides": [[1, 2, 2], [2, 2, 2]],
                "full_resolution_channels": 4,
                "supervised_scales": 1,
            },
            "training": {"patch_size": [6, 6, 6]},
            "inference": {"batch_size": 2},
        }
    )
    run = RunFolder.create(folder, config, SPLIT)
    run.weights_file.touch()
    return run


class Threshold(nn.Module):
    """The last channel: above 1 is class 1, below -1 is class 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, -1:]
        return torch.cat([torch.zeros_like(x), x - 1, -x - 1], dim=1)


def expected_map(image: np.ndarray) -> np.ndarray:
    return np.where(image > 1, 3, np.where(image < -1, 7, 0))


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Threshold())
    return make_run(tmp_path / "run")


def oblique_affine(codes="RAS", spacing=(0.7, 1.2, 3.0), shape=SHAPE) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [8, -12, 15], degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = (-40, 22.5, 130)
    return affine @ nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), shape)


def write_image(path, seed=0, codes="RAS", shape=SHAPE) -> np.ndarray:
    array = np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)
    array[:2], array[..., -1] = 0, 0
    image = nib.Nifti1Image(array, oblique_affine(codes))
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return array


def write_folder(folder, count=3) -> list[np.ndarray]:
    return [write_image(folder / f"scan{i}.nii.gz", i) for i in range(count)]


def read(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAR"])
@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("orientation", ["RAS", "SPL", None])
def test_every_voxel_lands_where_it_came_from(run, tmp_path, codes, crop, orientation):
    run = make_run(tmp_path / "other", crop_foreground=crop, orientation=orientation)
    array = write_image(tmp_path / "scan.nii", codes=codes)
    (found,) = predict_images(run.path, tmp_path / "scan.nii", tmp_path / "out")
    assert found == tmp_path / "out" / "scan.nii.gz"
    np.testing.assert_array_equal(read(found), expected_map(array))
    np.testing.assert_array_equal(nib.load(found).affine, nib.load(tmp_path / "scan.nii").affine)
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == {"labels": LABELS}


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.2, 1.5), (1.4, 1.2, 3.0)])
@pytest.mark.parametrize("codes", ["RAS", "PIR"])
def test_resampled_structures_stay_in_place(run, tmp_path, spacing, codes):
    """A smooth blob off the centre overlaps its native threshold almost wholly."""
    run = make_run(tmp_path / "other", spacing=spacing)
    affine = oblique_affine(codes, (0.7, 1.2, 3.0), (40, 30, 20))
    place = np.stack(np.meshgrid(*map(np.arange, (40, 30, 20)), indexing="ij"), axis=-1)
    mm = (place - (15, 18, 7)) * np.linalg.norm(affine[:3, :3], axis=0)
    array = (9 - 8 * np.linalg.norm(mm, axis=-1) / 8).astype(np.float32)
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "blob.nii.gz")
    (path,) = predict_images(run.path, tmp_path / "blob.nii.gz", tmp_path / "out")
    found, expected = read(path) == 3, array > 1
    assert expected.sum() > 300
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.97


def test_real_weights_predict_what_the_network_says(tmp_path):
    run = make_run(tmp_path / "run")
    torch.manual_seed(0)
    network = build_run_network(run.config).eval()
    run.save_weights(network.state_dict())
    array = write_image(tmp_path / "scan.nii.gz", shape=(6, 6, 6))
    (path,) = predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / "out")
    with torch.no_grad():
        classes = network(torch.from_numpy(array)[None, None])[0].argmax(0)
    np.testing.assert_array_equal(read(path), np.array([0, 3, 7])[classes])
    assert len(classes.unique()) > 1


def test_a_folder_in_any_number_of_windows_and_mirrored(run, tmp_path, caplog):
    arrays = write_folder(tmp_path / "images")
    with caplog.at_level(logging.INFO, "dlka_med"):
        found = predict_images(run.path, tmp_path / "images", tmp_path / "out", mirror=True, overlap=0.25)
    assert [path.name for path in found] == ["scan0.nii.gz", "scan1.nii.gz", "scan2.nii.gz"]
    for path, array in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(read(path), expected_map(array))
    assert "predicting: 3 cases in" in caplog.text
    beside = ["cases.json", "labels.json"]
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == [*beside, *(p.name for p in found)]


class Tilted(nn.Module):
    """Class 1 in the first half of the first axis, class 2 in the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-1, 1, x.shape[2]).reshape(1, 1, -1, 1, 1).expand_as(x)
        return torch.cat([torch.zeros_like(x) - 9, -ramp, ramp], dim=1)


def test_left_and_right_stay_where_training_never_mirrored_them(tmp_path, monkeypatch, caplog):
    """Averaged over both sides, a network that knows them knows nothing."""
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Tilted())
    run = make_run(tmp_path / "run", labels={"background": 0, "left": 3, "right": 7})
    write_image(tmp_path / "scan.nii.gz", shape=(6, 6, 6))
    maps = []
    for name, options in (("plain", {}), ("trained", {"mirror": True}), ("named", {"mirror": (0,)})):
        assert not caplog.text
        maps.append(read(*predict_images(run.path, tmp_path / "scan.nii.gz", tmp_path / name, **options)))
    np.testing.assert_array_equal(maps[0][:, 0, 0], [3, 3, 3, 7, 7, 7])
    np.testing.assert_array_equal(maps[1], maps[0])
    assert len(np.unique(maps[2])) == 1
    assert "mirrored along axis 0, which training never was" in caplog.text


def test_channels_come_in_order(run, tmp_path):
    run = make_run(tmp_path / "two", channels=("T1", "T2"))
    write_image(tmp_path / "images" / "scan_0000.nii.gz", 1)
    second = write_image(tmp_path / "images" / "scan_0001.nii.gz", 2)
    (path,) = predict_images(run.path, tmp_path / "images", tmp_path / "out")
    assert path.name == "scan.nii.gz"
    np.testing.assert_array_equal(read(path), expected_map(second))
    one = make_run(tmp_path / "one")
    with pytest.raises(InputError, match="channel"):
        predict_images(one.path, tmp_path / "images", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def write_dataset(root) -> None:
    write_folder(root / "imagesTr")
    write_folder(root / "labelsTr")
    pairs = [{"image": f"imagesTr/scan{i}.nii.gz", "label": f"labelsTr/scan{i}.nii.gz"} for i in range(3)]
    facts = {"modality": {"0": "T1"}, "labels": {"0": "background", "3": "bright", "7": "dark"}}
    (root / "dataset.json").write_text(json.dumps(facts | {"training": pairs}))


@pytest.mark.parametrize(("split", "cases"), [("train", "01"), ("validation", "2"), ("all", "012"), (None, "012")])
def test_a_split_picks_its_cases(run, tmp_path, split, cases):
    write_dataset(tmp_path / "data")
    found = predict_images(run.path, tmp_path / "data", tmp_path / "out", split=split)
    assert [path.name for path in found] == [f"scan{i}.nii.gz" for i in cases]


def test_a_split_without_cases_or_with_missing_ones_is_refused(run, tmp_path):
    write_dataset(tmp_path / "data")
    for images, split, message in (
        (tmp_path / "data", "test", "no test case"),
        (tmp_path / "data", "trian", "trian.*expected one of"),
        (tmp_path / "data" / "imagesTr" / "scan0.nii.gz", "train", "lacks 1 of the 2 train.*scan1"),
    ):
        with pytest.raises(InputError, match=message):
            predict_images(run.path, images, tmp_path / "out", split=split)
    assert not (tmp_path / "out").exists()


def test_existing_predictions_are_refused_skipped_or_replaced(run, tmp_path):
    write_folder(tmp_path / "images")
    images, out = tmp_path / "images", tmp_path / "out"
    out.mkdir()
    (out / "scan1.nii.gz").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"scan1.nii.gz exists already \(1 of 3"):
        predict_images(run.path, images, out)
    with pytest.raises(InputError, match=r"label map of the case scan1, but cases.json there does not say which run"):
        predict_images(run.path, images, out, skip_existing=True)
    assert [p.name for p in out.iterdir()] == ["scan1.nii.gz"]
    assert predict_images(run.path, images, out, only=["scan0"]) == [out / "scan0.nii.gz"]
    (out / "scan0.nii.gz").write_bytes(b"corrected by hand")
    (out / "scan1.nii.gz").unlink()
    found = predict_images(run.path, images, out, skip_existing=True)
    assert [p.name for p in found] == ["scan1.nii.gz", "scan2.nii.gz"]
    assert (out / "scan0.nii.gz").read_bytes() == b"corrected by hand"
    assert predict_images(run.path, images, out, skip_existing=True) == []
    assert len(predict_images(run.path, images, out, overwrite=True)) == 3
    assert read(out / "scan0.nii.gz").shape == SHAPE
    with pytest.raises(InputError, match="contradict"):
        predict_images(run.path, images, out, overwrite=True, skip_existing=True)


def test_images_are_never_replaced(run, tmp_path):
    write_folder(tmp_path / "images")
    before = (tmp_path / "images" / "scan0.nii.gz").read_bytes()
    with pytest.raises(InputError, match="would replace an image"):
        predict_images(run.path, tmp_path / "images", tmp_path / "images", overwrite=True)
    assert (tmp_path / "images" / "scan0.nii.gz").read_bytes() == before


def test_label_maps_do_not_lie_among_images(run, tmp_path):
    """Where images are called case_0000 they have other names, and would be images without a number from then on."""
    images = tmp_path / "imagesTs"
    write_folder(images)
    for image in sorted(images.iterdir()):
        image.rename(images / image.name.replace(".nii", "_0000.nii"))
    facts = {"channel_names": {"0": "T1"}, "labels": LABELS, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    before = sorted(images.iterdir())
    for out in (images, tmp_path):
        with pytest.raises(InputError, match="holds images or a dataset"):
            predict_images(run.path, sorted(images.iterdir())[0], out)
    assert sorted(images.iterdir()) == before


def test_predictions_with_other_labels_are_not_mixed(run, tmp_path):
    write_folder(tmp_path / "images")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels.json").write_text('{"labels": {"background": 0, "liver": 1}}')
    with pytest.raises(InputError, match=r"labels.json names other labels"):
        predict_images(run.path, tmp_path / "images", tmp_path / "out")


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_bad_case_does_not_stop_the_others(run, tmp_path, bad):
    arrays = write_folder(tmp_path / "images")
    broken = tmp_path / "images" / f"scan{bad}.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError, match=rf"1 of 3 cases.*\nscan{bad}: .*scan{bad}.nii.gz"):
        predict_images(run.path, tmp_path / "images", tmp_path / "out")
    good = [i for i in range(3) if i != bad]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz")) == [f"scan{i}.nii.gz" for i in good]
    for i in good:
        np.testing.assert_array_equal(read(tmp_path / "out" / f"scan{i}.nii.gz"), expected_map(arrays[i]))


def test_an_unexpected_error_names_the_case_and_leaves_whole_files(run, tmp_path, monkeypatch, caplog):
    class Fails(Threshold):
        def forward(self, x):
            if x.abs().max() > 50:
                raise RuntimeError("boom")
            return super().forward(x)

    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Fails())
    write_folder(tmp_path / "images")
    nib.save(nib.Nifti1Image(np.full(SHAPE, 99, np.float32), np.eye(4)), tmp_path / "images" / "scan1.nii.gz")
    with pytest.raises(RuntimeError, match="boom"):
        predict_images(run.path, tmp_path / "images", tmp_path / "out")
    assert "while predicting the case scan1" in caplog.text
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == ["cases.json", "labels.json", "scan0.nii.gz"]


def test_options_that_cannot_be_are_refused_before_anything_is_written(run, tmp_path):
    write_folder(tmp_path / "images")
    for options, message in (
        ({"device": "cuda:99"}, "cuda:99 is not there"),
        ({"device": "gpu"}, "no device called 'gpu'"),
        ({"overlap": 1.5}, "overlap"),
        ({"mirror": (0, 5)}, "mirror_axes"),
    ):
        with pytest.raises(InputError, match=message):
            predict_images(run.path, tmp_path / "images", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_fractions_of_a_case_are_not_rounded(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(predict_module, "progress", lambda what: lambda done, total: seen.append((done, total)))
    write_folder(tmp_path / "images", 2)
    monkeypatch.setattr(Predictor, "segment", lambda self, prepared, show: [show(n, 999) for n in (1, 998, 999)] and 0)
    monkeypatch.setattr(predict_module, "write_label_map", lambda *args, **options: None)
    predict_images(run.path, tmp_path / "images", tmp_path / "out")
    assert seen == [(done, 2) for done in (1 / 999, 998 / 999, 1, 1 + 1 / 999, 1 + 998 / 999, 2)]


def test_who_read_an_image_writes_its_label_map(run, tmp_path, monkeypatch):
    write_folder(tmp_path / "images", 1)
    written = []
    reader = replace(NIFTI, write_label=lambda path, values, like: written.append((path, values.shape, like)))
    monkeypatch.setattr("dlka_med.data.load.readers_of", lambda case: (reader,))
    (target,) = predict_images(run.path, tmp_path / "images", tmp_path / "out")
    (image,) = (tmp_path / "images").iterdir()
    assert written == [(target, nib.load(image).shape, image)]


def test_the_labels_of_the_run_replace_those_of_the_dataset(run, tmp_path):
    write_dataset(tmp_path / "data")
    facts = json.loads((tmp_path / "data" / "dataset.json").read_text())
    facts["labels"] = {"background": 0, "any": [3, 7]}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(facts))
    assert len(predict_images(run.path, tmp_path / "data", tmp_path / "out")) == 3


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1e3), ("meter", 1e-3)])
def test_units_other_than_millimetres(run, tmp_path, unit, factor):
    run = make_run(tmp_path / "other", spacing=(1.0, 1.2, 1.5))
    array = write_image(tmp_path / "scan.nii")
    (in_mm,) = predict_images(run.path, tmp_path / "scan.nii", tmp_path / "mm")
    affine = oblique_affine()
    affine[:3] *= factor
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    (found,) = predict_images(run.path, tmp_path / "scan.nii", tmp_path / "out")
    assert np.mean(read(found) == read(in_mm)) > 0.99
    np.testing.assert_allclose(nib.load(found).affine, nib.load(tmp_path / "scan.nii").affine)
    assert nib.load(found).header.get_xyzt_units()[0] == unit
