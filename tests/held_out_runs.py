"""Runs with held-out cases, whose true probabilities are known: a voxel's grey value is the logit of its label."""

import json

import nibabel as nib
import numpy as np
import torch
from torch import nn

from dlka_med.config.schema import RunConfig
from dlka_med.run_folder import RunFolder

CASES = 6
LABELS = {"background": 0, "organ": 3}
REGIONS = {"background": 0, "organ": [3, 5], "core": 5}
SHAPE = (10, 11, 12)


class Boastful(nn.Module):
    """Logits of `factor` times what they should be."""

    def __init__(self, factor=3.0, regions=False):
        super().__init__()
        self.factor, self.regions = factor, regions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * torch.cat([x, -x - 1] if self.regions else [torch.zeros_like(x), x], dim=1)


def make_dataset(root):
    """Write six cases, of five patients."""
    random = np.random.default_rng(0)
    for case in range(CASES):
        logits = random.normal(0, 2, SHAPE).astype(np.float32)
        write_case(root, f"scan{case}", logits, 3 * (random.random(SHAPE) < 1 / (1 + np.exp(-logits))))
    rows = [f"scan{case},{group}" for case, group in enumerate(("ann", "ann", "bob", "", "eve", ""))]
    (root / "groups.csv").write_text("\n".join(["case,group", *rows]))
    facts = {"channel_names": {"0": "T1"}, "labels": LABELS, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def write_case(root, case, image, label):
    for folder, name, array in (("imagesTr", f"{case}_0000", image), ("labelsTr", case, label.astype(np.uint8))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([1, 1.5, 1, 1])), root / folder / f"{name}.nii.gz")


def make_run(path, root, validation, labels=LABELS, weights=0, order=None, fold=0, **preprocessing):
    """A run with weights that nobody reads."""
    plain = {"spacing": None, "crop_foreground": False, "intensity": [{"kind": "none"}]}
    dataset = {"root": str(root), "channels": ["T1"], "labels": labels, "regions_class_order": order, "fold": fold}
    config = {
        "name": "run",
        "dataset": dataset,
        "preprocessing": plain | preprocessing,
        "network": {"name": "dlka_net_3d"},
        "training": {"patch_size": [32, 64, 64]},
    }
    run = RunFolder.create(path, RunConfig.model_validate(config), {"train": [], "validation": validation, "test": []})
    run.save_weights({"w": torch.full((2,), float(weights))})
    return run


def folds_of(folder, dataset, parts):
    """A folder of folds, each validated by its part of the cases, with other weights."""
    folder.mkdir()
    (folder / "folds.json").write_text(json.dumps(parts))
    return [make_run(folder / f"fold_{fold}", dataset, part, weights=fold) for fold, part in enumerate(parts)]
