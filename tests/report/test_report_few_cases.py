"""Reports on two cases of one patient, whose names are no plain ones."""

import json

import numpy as np
import pytest

from dlka_med.config.schema import RunConfig
from dlka_med.run_folder import RunFolder

from .conftest import SHAPE, labelled, write
from .test_report import page_of

LABELS = {"background": 0, "L\u00e4sion > 5 ml": 1}


@pytest.fixture
def report(tmp_path):
    """The page on two cases, of which the second is found two voxels off."""

    def write_and_read(label):
        root = tmp_path / "data"
        for folder, off in (("imagesTr", 0), ("labelsTr", 0), ("predictions", 2)):
            (root / folder).mkdir(parents=True)
            for number, name in enumerate("ab"):
                channel = "_0000" if folder == "imagesTr" else ""
                write(root / folder / f"{name}{channel}.nii.gz", np.roll(label, off * number, axis=0))
        facts = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ".nii.gz"}
        (root / "dataset.json").write_text(json.dumps(facts))
        (root / "groups.csv").write_text("case,group\na,case 12\nb,case 12\n")
        config = {
            "name": "small",
            "dataset": {"root": str(root), "channels": ["MRI"], "labels": LABELS},
            "network": {"name": "dlka_net_3d"},
            "training": {"patch_size": [32, 64, 64]},
        }
        split = {"train": [], "validation": ["a", "b"], "test": []}
        run = RunFolder.create(tmp_path / "run", RunConfig.model_validate(config), split)
        return page_of(run.path, root / "predictions")

    return write_and_read


def test_two_cases_are_the_worst_and_the_best(report):
    text = report(np.minimum(labelled(0, SHAPE), 1)).text
    assert "Worst: b" in text
    assert "Best: a" in text
    assert "Second worst" not in text.partition("Figures per label")[0]


def test_names_stand_as_they_were_given(report):
    """Of the patient, and of the label in the settings."""
    text = report(np.minimum(labelled(0, SHAPE), 1)).text
    assert "bcase 12held out" in text
    assert "background: 0, L\u00e4sion > 5 ml: 1" in text


def test_without_structures_volumes_stay_volumes(report):
    text = report(np.zeros(SHAPE, np.uint8)).text
    assert "Volumes against the reference" in text
    assert "No case has a structure." in text
