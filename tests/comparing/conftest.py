"""A comparison of two tiny networks, made once."""

import json
import shutil
from contextlib import contextmanager
from math import prod

import nibabel as nib
import numpy as np
import pytest

from dlka_med.comparing.compare import compare
from dlka_med.comparing.folder import ComparisonFolder
from dlka_med.config.loading import save_config
from dlka_med.planning.probe import Measured
from dlka_med.training.task import SegmentationTask

GIB = 2**30
NETWORKS = ("dlka_net_3d", "unet")
SMALL = {
    "dlka_net_3d": {"channels": (4, 8), "depths": (1, 1), "strides": ((2, 2, 2),) * 2, "full_resolution_channels": 4},
    "unet": {"channels": (4, 8), "strides": ((2, 2, 2),)},
}


def light(config, device="cpu"):
    """Stands in for the estimate of a step."""
    return 0.5 * GIB + 1000.0 * prod(config.training.patch_size)


def quick(config, device):
    """Stands in for the probe."""
    return Measured(light(config), 0.1)


@pytest.fixture(scope="session")
def balls(tmp_path_factory):
    """Folder of six cases in the Decathlon layout, two per patient."""
    root = tmp_path_factory.mktemp("balls")
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"))
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    for number in range(6):
        label = (np.linalg.norm(grid - random.uniform(5, 11, (3, 1, 1, 1)), axis=0) < 4).astype(np.uint8)
        image = (100 * label + random.normal(0, 10, label.shape)).astype(np.float32)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"ball_{number}.nii.gz")
    names = [f"ball_{number}" for number in range(6)]
    facts = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ball"}}
    facts["training"] = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in names]
    (root / "dataset.json").write_text(json.dumps(facts))
    groups = [f"{name},patient_{number // 2}" for number, name in enumerate(names)]
    (root / "groups.csv").write_text("\n".join(["case,group", *groups]))
    return root


def small_plans(monkeypatch):
    """Plans are cut down to networks and trainings of a second."""

    def save(made, path):
        config = made.config
        network = config.network.model_copy(update=SMALL[config.network.name])
        training = config.training.model_copy(update={"steps_per_epoch": 3, "workers": 0})
        save_config(config.model_copy(update={"network": network, "training": training}), path)

    monkeypatch.setattr("dlka_med.planning.plan.Plan.save", save)
    monkeypatch.setattr("dlka_med.training.callbacks.plot_curve", lambda rows, path: path.touch())


@pytest.fixture
def small(monkeypatch):
    small_plans(monkeypatch)


@pytest.fixture(scope="session")
def call(balls):
    """`call(out, ...)`: compare on the balls, one epoch of three steps."""

    def _call(out, **more):
        given = {"networks": NETWORKS, "epochs": 1, "seeds": 2, "memory": 4, "device": "cpu", "workers": 1}
        return compare(balls, out, **given | {"probe": quick, "estimate": light} | more)

    return _call


@pytest.fixture(scope="session")
def made_once(call, tmp_path_factory):
    """Folder and result of two networks with two seeds each; not to be changed."""
    folder = ComparisonFolder(tmp_path_factory.mktemp("made") / "out")
    with pytest.MonkeyPatch.context() as patch:
        small_plans(patch)
        return folder, call(folder.path)


@pytest.fixture
def made(made_once, tmp_path, small):
    """A copy of that folder."""
    return ComparisonFolder(shutil.copytree(made_once[0].path, tmp_path / "out"))


@pytest.fixture
def trained(monkeypatch):
    """Which runs are trained from now on, as (run folder, resumed)."""
    from dlka_med.training.train import train

    calls = []

    def train_and_tell(config, out, *, resume=False, is_claimed=False):
        assert is_claimed
        calls.append((str(out), resume))
        return train(config, out, resume=resume, is_claimed=is_claimed)

    monkeypatch.setattr("dlka_med.comparing.runs.train", train_and_tell)
    return calls


@pytest.fixture
def end_early(monkeypatch):
    """`with end_early(where):` trainings find their file `stop` after a step, if `where` is in their path."""
    step = SegmentationTask.on_train_batch_end

    @contextmanager
    def _end_early(where):
        def wish(self, *batch):
            step(self, *batch)
            run = self.trainer.datamodule.run
            if where in run.path.parts:
                run.stop_file.touch()

        with monkeypatch.context() as patch:
            patch.setattr(SegmentationTask, "on_train_batch_end", wish)
            yield

    return _end_early
