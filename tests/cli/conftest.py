"""A folder with all that the verbs can be given."""

import json
import shutil
from pathlib import Path

import pytest

CONFIG = """\
name: {name}
dataset: {{root: data, channels: [MRI], labels: {{background: 0, tumour: 1}}}}
network: {{name: dlka_net_3d}}
training: {{patch_size: [32, 64, 64]}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A config, a dataset, images, label maps, a file of weights; a run with weights, one without, one with cases."""
    folder = tmp_path_factory.mktemp("places")
    for name in ("data", "run", "untrained", "images", "predictions", "labels"):
        (folder / name).mkdir()
    (folder / "c.yaml").write_text(CONFIG.format(name="brain"))
    (folder / "original.model").touch()
    (folder / "data" / "dataset.json").touch()
    (folder / "images" / "7.nii.gz").touch()
    for run in ("run", "untrained"):
        (folder / run / "config.yaml").write_text(CONFIG.format(name="trained"))
        (folder / run / "split.json").write_text(json.dumps({"train": [], "validation": [], "test": []}))
    (folder / "run" / "weights.safetensors").touch()
    for scan in ("scans/images", "scans/labels"):
        (folder / scan).mkdir(parents=True)
        (folder / scan / "7.nii.gz").touch()
    shutil.copytree(folder / "run", folder / "validated")
    (folder / "validated" / "config.yaml").write_text(CONFIG.format(name="valid").replace("root: data", "root: scans"))
    (folder / "validated" / "split.json").write_text(json.dumps({"train": [], "validation": ["7"], "test": []}))
    (folder / "compared").mkdir()
    asked = {"dataset": str(folder / "data"), "networks": ["unet", "dynunet"], "epochs": 7, "folds": [0]}
    (folder / "compared" / "comparison.json").write_text(json.dumps(asked))
    return folder


@pytest.fixture
def places(folder, monkeypatch) -> Path:
    """That folder as the working folder."""
    monkeypatch.chdir(folder)
    return folder
