"""Datasets of bright balls and disks, and the smallest runs on them."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dlka_med.config.loading import load_config

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
  epochs: 4
  steps_per_epoch: 3
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
    """The smallest run: 4 epochs of 3 steps, validated every second one."""
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
    overrides = {"volumes": [], "images": [], "slices": ["dataset.slices=coronal", "preprocessing.orientation=null"]}
    path.write_text(text)
    return load_config(path, overrides[kind])
