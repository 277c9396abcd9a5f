"""Predictions of datasets that name their channels, and of files that are no channels."""

import codecs
import json
import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
from torch import nn

from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.inference.predict import predict_images
from dlka_med.run_folder import RunFolder

SHAPE = (6, 6, 6)
ADC = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
T2 = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


class FirstIsPositive(nn.Module):
    """Class 1 where the first channel is positive."""

    def forward(self, x):
        return nn.functional.pad(x[:, :1], (0, 0, 0, 0, 0, 0, 1, 0))


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": FirstIsPositive())

    def make(channels, root="nowhere"):
        config = {
            "name": "run",
            "dataset": {"root": str(root), "channels": channels, "labels": {"background": 0, "lesion": 1}},
            "preprocessing": {"crop_foreground": False, "intensity": [{"kind": "none"}] * len(channels)},
            "network": {"name": "dlka_net_3d", "channels": [4, 8], "depths": [1, 1], "strides": [[2, 2, 2]] * 2}
            | {"supervised_scales": 1},
            "training": {"patch_size": list(SHAPE)},
        }
        split = {"train": [], "validation": ["x"], "test": []}
        run = RunFolder.create(tmp_path / "run", RunConfig.model_validate(config), split)
        run.weights_file.touch()
        return run.path

    return make


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def decathlon(root, names, arrays):
    write(root / "imagesTr/x.nii.gz", np.stack(arrays, axis=-1) if len(arrays) > 1 else arrays[0])
    write(root / "labelsTr/x.nii.gz", np.zeros(SHAPE, np.uint8))
    pair = {"image": "imagesTr/x.nii.gz", "label": "labelsTr/x.nii.gz"}
    facts = {"modality": names, "labels": {"0": "background", "1": "lesion"}, "training": [pair]}
    (root / "dataset.json").write_text(json.dumps(facts))


def nnunet(root, names, arrays):
    for index, array in enumerate(arrays):
        write(root / f"imagesTr/x_{index:04d}.nii.gz", array)
    write(root / "labelsTr/x.nii.gz", np.zeros(SHAPE, np.uint8))
    facts = {"channel_names": names, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(facts))


LAYOUTS = pytest.mark.parametrize("layout", [decathlon, nnunet])


@LAYOUTS
@pytest.mark.parametrize("run_channels", [("ADC", "T2"), ("T2", "ADC")])
@pytest.mark.parametrize("split", [None, "validation"])
def test_channels_reach_the_network_in_the_order_it_was_trained_with(make_run, tmp_path, layout, run_channels, split):
    layout(tmp_path / "data", {"0": "T2", "1": "ADC"}, [T2, ADC])
    (path,) = predict_images(make_run(run_channels), tmp_path / "data", tmp_path / "out", split=split)
    expected = {"ADC": ADC, "T2": T2}[run_channels[0]] > 0
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), expected)


@LAYOUTS
@pytest.mark.parametrize("given", ["the folder", "where the user stands", "a file"])
def test_images_of_a_dataset_have_its_names_without_it(make_run, tmp_path, monkeypatch, layout, given, caplog):
    layout(tmp_path / "data", {"0": "T2", "1": "ADC"}, [T2, ADC])
    folder, run = tmp_path / "data" / "imagesTr", make_run(("ADC", "T2"))
    monkeypatch.chdir(folder)
    images = {"the folder": folder, "where the user stands": ".", "a file": min(folder.iterdir())}[given]
    with caplog.at_level(logging.INFO, "dlka_med"):
        (path,) = predict_images(run, images, tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), ADC > 0)
    assert "['T2', 'ADC']: they are read in the order ['ADC', 'T2']" in caplog.text


def test_images_of_no_dataset_count_in_their_order(make_run, tmp_path):
    nnunet(tmp_path / "data", {"0": "T2", "1": "ADC"}, [T2, ADC])
    shutil.copytree(tmp_path / "data" / "imagesTr", tmp_path / "bare" / "images")
    (path,) = predict_images(make_run(("ADC", "T2")), tmp_path / "bare" / "images", tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), T2 > 0)


@LAYOUTS
def test_another_modality_is_refused(make_run, tmp_path, layout):
    layout(tmp_path / "data", {"0": "MRI"}, [T2])
    run = make_run(("CT",))
    for images in (tmp_path / "data", tmp_path / "data" / "imagesTr", next((tmp_path / "data" / "imagesTr").iterdir())):
        with pytest.raises(InputError, match=r"declares the channels \['MRI'\], but \['CT'\] are needed"):
            predict_images(run, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    bare = shutil.copytree(tmp_path / "data" / "imagesTr", tmp_path / "bare" / "images")
    assert len(predict_images(run, bare, tmp_path / "out")) == 1


@LAYOUTS
def test_the_runs_own_dataset_may_be_called_otherwise_in_the_config(make_run, tmp_path, layout):
    layout(tmp_path / "data", {"0": "MRI"}, [T2])
    run = make_run(("CT",), root=tmp_path / "data")
    assert len(predict_images(run, tmp_path / "data", tmp_path / "out", split="validation")) == 1
    assert len(predict_images(run, tmp_path / "data" / "imagesTr", tmp_path / "out", overwrite=True)) == 1


def test_two_patients_are_no_channels(make_run, tmp_path):
    for index, array in enumerate((ADC, T2)):
        write(tmp_path / f"in/q_{index:04d}.nii.gz", array)
    run = make_run(("ADC",))
    with pytest.raises(InputError, match="--one-file-per-case"):
        predict_images(run, tmp_path / "in", tmp_path / "out")
    found = predict_images(run, tmp_path / "in", tmp_path / "out", one_file_per_case=True)
    assert [path.name for path in found] == ["q_0000.nii.gz", "q_0001.nii.gz"]
    for path, array in zip(found, (ADC, T2), strict=True):
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), array > 0)


def test_label_names_that_windows_saved_are_those_of_the_run(make_run, tmp_path):
    write(tmp_path / "in/q.nii.gz", ADC)
    run, out = make_run(("ADC",)), tmp_path / "out"
    predict_images(run, tmp_path / "in", out)
    names = out / "labels.json"
    names.write_bytes(codecs.BOM_UTF8 + names.read_bytes())
    assert predict_images(run, tmp_path / "in", out, skip_existing=True) == []
