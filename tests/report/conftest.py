"""Runs whose predictions are known: small datasets in 3D and 2D with label maps, and networks that threshold."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dlka_med.config.schema import RunConfig
from dlka_med.data.nifti import write_shares
from dlka_med.run_folder import RunFolder

UNMAPPED = "case_3"
HOSTILE = "<img src=x onerror=alert(1)>"
LABELS = {"background": 0, "front": 1, "<script>alert(2)</script> $\\foo$": 2}
SHAPE = (21, 17, 13)
METRICS = "epoch,step,minutes,loss,learning_rate,dice,dice front\n1,3,0.1,1.2,0.01,,\n2,6,0.2,0.7,0.005,0.8,0.7\n"


class Threshold(nn.Module):
    """Classes by grey: below 50, to 150, above."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-(x - at).abs() for at in (0.0, 100.0, 200.0)], dim=1)


def names(count: int) -> list[str]:
    return [HOSTILE, *(f"case_{number}" for number in range(1, count))]


def labelled(number: int, shape: tuple[int, ...]) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[4:10, 3 : 9 + number % 3] = 1
    label[10:15, 3 : 9 + number % 3] = 2
    return label


def erring(label: np.ndarray, number: int) -> np.ndarray:
    """What a network might make of it, the worse the larger the number."""
    return np.roll(label, number % 5, axis=0)


def entropy_of(prediction: np.ndarray) -> np.ndarray:
    """Levels of a map of uncertainty: high beside structures along the first axis, a bit less one voxel further."""
    inside = (prediction > 0).astype(np.uint8)
    near, far = (np.maximum(np.roll(inside, step, 0), np.roll(inside, -step, 0)) - inside for step in (1, 2))
    return np.where(near == 1, 210, np.where(far == 1, 60, 0)).astype(np.uint8)


def make_dataset(root: Path, dims: int, count: int = 12) -> Path:
    """Cases of which the first two are one patient; the first has a name that is HTML.

    All but `UNMAPPED` have a map of uncertainty beside their prediction.
    """
    ending = ".nii.gz" if dims == 3 else ".png"
    random = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr", "predictions/uncertainty", "others"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(names(count)):
        label = labelled(number, SHAPE[:dims])
        image = (100.0 * label + random.normal(0, 9, label.shape)).astype(np.float32)
        found = {"labelsTr": label, "predictions": erring(label, number), "others": erring(label, number + 1)}
        for folder, array in found.items():
            write(root / folder / f"{name}{ending}", array)
        if name != UNMAPPED:
            write_map(root / "predictions" / "uncertainty" / f"{name}{ending}", entropy_of(found["predictions"]))
        image = image if dims == 3 else np.clip(image, 0, 255).astype(np.uint8)
        write(root / "imagesTr" / f"{name}_0000{ending}", image)
    facts = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ending}
    (root / "dataset.json").write_text(json.dumps(facts))
    rows = [f"{name},p{max(number, 1)}" for number, name in enumerate(names(count))]
    (root / "groups.csv").write_text("\n".join(["case,group", *rows]))
    return root


def write(path: Path, array: np.ndarray) -> None:
    if path.name.endswith(".png"):
        Image.fromarray(array).save(path)
    else:
        nib.save(nib.Nifti1Image(array, np.diag([1, 1.5, 2, 1])), path)


def write_map(path: Path, levels: np.ndarray) -> None:
    if path.name.endswith(".png"):
        Image.fromarray(levels).save(path)
    else:
        write_shares(path, [levels], 1, np.diag([1.0, 1.5, 2, 1]))


def make_run(
    path: Path,
    root: Path,
    dims: int = 3,
    validation: list[str] | None = None,
    trained: bool = True,
    fold: int | str = 0,
    everybody: tuple[str, ...] = tuple(names(12)),
) -> RunFolder:
    """A run with weights that nobody reads; all other cases trained."""
    validating = list(everybody) if validation is None else validation
    network = {"name": "dlka_net_3d" if dims == 3 else "dlka_net_2d"}
    patch = [32, 64, 64] if dims == 3 else [64, 64]
    plain = {"spacing": None, "crop_foreground": False, "intensity": [{"kind": "none"}]}
    config = {
        "name": "small",
        "dataset": {"root": str(root), "channels": ["MRI"], "labels": LABELS, "fold": fold},
        "preprocessing": plain if dims == 3 else plain | {"orientation": None},
        "network": network if dims == 3 else network | {"encoder": "resnet18"},
        "training": {"patch_size": patch, "epochs": 2},
    }
    split = {"train": [name for name in everybody if name not in validating], "validation": validating, "test": []}
    run = RunFolder.create(path, RunConfig.model_validate(config), split)
    run.metrics_file.write_text(METRICS)
    if trained:
        run.save_weights({"w": torch.zeros(2)}, {"epoch": 2, "validation_dice": 0.8})
    return run


@pytest.fixture
def thresholding(monkeypatch):
    """Every run's network from then on."""
    monkeypatch.setattr(RunFolder, "load_network", lambda run, device="cpu": Threshold())


@pytest.fixture(scope="session", params=[3, 2], ids=["3d", "2d"])
def dims(request) -> int:
    return request.param


@pytest.fixture(scope="session")
def dataset(dims, tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp(f"data{dims}") / "data", dims)


@pytest.fixture(scope="session")
def volumes(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("volumes") / "data", 3, count=6)
