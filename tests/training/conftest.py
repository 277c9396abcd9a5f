"""Datasets of bright balls and disks, and the smallest runs on them."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dlka_med.config.loading import load_config
from dlka_med.folds_folder import FoldsFolder
from dlka_med.run_folder import RunFolder
from dlka_med.training.callbacks import Recorder
from dlka_med.training.folds import train_folds
from dlka_med.training.train import train

from .runs import changed

NETWORK_2D = """\
network:
  name: dlka_net_2d
  encoder: test_convnext
  depths: [1, 1, 1]
  deformation: none
  supervised_scales: 2
training:
"""
CONFIG = """\
name: balls
dataset: {{root: {root}, folds: 3}}
preprocessing: {{crop_foreground: false}}
network:
  name: dlka_net_3d
  channels: [4, 8]
  depths: [1, 1]
  strides: [[2, 2, 2], [2, 2, 2]]
  full_resolution_channels: 4
  position_embedding: false
  supervised_scales: 2
training:
  epochs: 3
  steps_per_epoch: 2
  patch_size: [12, 16, 12]
  workers: 0
  accelerator: cpu
  ema: 0.9
  validate_every: 2
  optimizer: {{name: adamw, learning_rate: 0.01, schedule: cosine}}
"""


@pytest.fixture(scope="session")
def balls(tmp_path_factory):
    """Folder of six cases in the Decathlon layout, two per patient."""
    root = tmp_path_factory.mktemp("balls")
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"))
    pairs, groups = [], ["case,group"]
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    for number in range(6):
        centre = random.uniform(5, 11, (3, 1, 1, 1))
        label = (np.linalg.norm(grid - centre, axis=0) < 4).astype(np.uint8)
        image = (100 * label + random.normal(0, 10, label.shape)).astype(np.float32)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(array, np.diag([1, 2, 1, 1])), root / folder / f"ball_{number}.nii.gz")
        pairs.append({"image": f"imagesTr/ball_{number}.nii.gz", "label": f"labelsTr/ball_{number}.nii.gz"})
        groups.append(f"ball_{number},patient_{number // 2}")
    facts = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ball"}, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(facts))
    (root / "groups.csv").write_text("\n".join(groups))
    return root


@pytest.fixture
def config_file(balls, tmp_path):
    """YAML file of the smallest run."""
    path = tmp_path / "balls.yaml"
    path.write_text(CONFIG.format(root=balls))
    return path


@pytest.fixture
def config(config_file):
    """The smallest run: 3 epochs of 2 steps, validated after the second and the last."""
    return load_config(config_file)


@pytest.fixture(scope="session")
def disks(tmp_path_factory):
    """Folder of six RGB images in the nnU-Net layout, all colours in one file; sizes differ."""
    root = tmp_path_factory.mktemp("disks")
    random = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    for number in range(6):
        shape = (44, 36 + 4 * number)
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
        label = (np.linalg.norm(grid - random.uniform(14, 24, (2, 1, 1)), axis=0) < 9).astype(np.uint8)
        image = np.stack([60 + 120 * label, 160 - 80 * label, 90 + 0 * label], -1) + random.normal(0, 10, (*shape, 3))
        Image.fromarray(image.astype(np.uint8)).save(root / "imagesTr" / f"disk_{number}_0000.png")
        Image.fromarray(label).save(root / "labelsTr" / f"disk_{number}.png")
    names = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "disk": 1}}
    (root / "dataset.json").write_text(json.dumps(names | {"file_ending": ".png"}))
    return root


@pytest.fixture(params=["volumes", "images", "slices"])
def any_config(request, balls, disks, tmp_path):
    """The smallest run of a 3D network, of a 2D network on RGB images, and of one on slices of volumes."""
    path, kind = tmp_path / "any.yaml", request.param
    text = CONFIG.format(root=disks if kind == "images" else balls)
    if kind != "volumes":
        network = text[text.index("network:") : text.index("training:")]
        text = text.replace(network + "training:\n", NETWORK_2D).replace("[12, 16, 12]", "[32, 40]")
    overrides = {
        "volumes": [],
        "images": [],
        "slices": ["dataset.slices=coronal", "preprocessing.orientation=null", "inference.batch_size=16"],
    }
    path.write_text(text)
    return load_config(path, overrides[kind])


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """The curve takes longer than all else in runs so small; who asks for `real_curve` gets it."""
    if "real_curve" not in request.fixturenames:
        monkeypatch.setattr("dlka_med.training.callbacks.plot_curve", lambda rows, path: path.touch())


@pytest.fixture
def real_curve():
    """Runs draw their curves."""


@pytest.fixture(scope="session")
def finished_once(balls, tmp_path_factory):
    """The smallest run after one epoch of one step; tests get copies."""
    return train(_once(balls, tmp_path_factory, epochs=1, steps_per_epoch=1), tmp_path_factory.mktemp("once") / "run")


@pytest.fixture(scope="session")
def unbroken(balls, tmp_path_factory):
    """Config and folder of a run of two validated epochs that nothing interrupted."""
    config = _once(balls, tmp_path_factory, epochs=2, validate_every=1)
    return config, train(config, tmp_path_factory.mktemp("unbroken") / "run")


@pytest.fixture(scope="session")
def crossvalidated(balls, tmp_path_factory):
    """Config, folder and result of a cross-validation of two epochs that nothing interrupted."""
    config = _once(balls, tmp_path_factory, epochs=2)
    config = changed(config, "dataset", cache=str(tmp_path_factory.mktemp("cache")))
    folder = FoldsFolder(tmp_path_factory.mktemp("crossvalidated") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dlka_med.training.callbacks.plot_curve", lambda rows, path: path.touch())
        return config, folder, train_folds(config, folder.path)


def _once(balls, tmp_path_factory, **training):
    file = tmp_path_factory.mktemp("config") / "balls.yaml"
    file.write_text(CONFIG.format(root=balls))
    return changed(load_config(file), **training)


@pytest.fixture
def finished(finished_once, tmp_path):
    """A copy of the smallest run with one epoch of one step, validated."""
    return RunFolder.open(shutil.copytree(finished_once.path, tmp_path / "run"))


@pytest.fixture
def stop_after(monkeypatch):
    """Make training fail when the epoch of this number is over and recorded."""

    def _stop_after(epoch):
        record = Recorder.on_train_epoch_end

        def record_and_stop(self, trainer, task):
            record(self, trainer, task)
            if trainer.current_epoch + 1 == epoch:
                raise RuntimeError("power cut")

        monkeypatch.setattr(Recorder, "on_train_epoch_end", record_and_stop)
        return pytest.raises(RuntimeError, match="power cut")

    return _stop_after
