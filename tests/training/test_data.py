"""What a run reads."""

import logging
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder
from dlka_med.training.data import RunData, check_labels

from .runs import changed


def test_a_resumed_run_has_its_split_and_needs_no_groups(balls, config, tmp_path):
    root = shutil.copytree(balls, tmp_path / "data")
    config = changed(config, "dataset", root=str(root))
    first = RunData(config, tmp_path / "run", resume=False)
    RunFolder.create(tmp_path / "run", first.config, first.split)
    (root / "groups.csv").write_text("case,group\nstranger,1\n")
    assert RunData(first.config, tmp_path / "run", resume=True).split == first.split


def test_who_is_held_out_includes_the_group_of_a_test_case(config, tmp_path):
    config = changed(config, "dataset", folds=2, test_cases=("ball_0",))
    data = RunData(config, tmp_path / "run", resume=False)
    assert {case.id for case in data.held_out} == {"ball_0", "ball_1", *data.split["validation"]}
    assert {*(case.id for case in data.held_out), *data.split["train"]} == {f"ball_{n}" for n in range(6)}


def test_files_that_a_run_names_are_absolute(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = changed(config, start_from="runs/first")
    data = RunData(config, tmp_path / "run", resume=False)
    assert data.config.training.start_from == str(tmp_path / "runs" / "first")


class Cache:
    """Labels by case, as the cache of prepared cases gives them."""

    def __init__(self, **labels):
        self.labels = {case: np.array(label, np.uint8).reshape(-1, 2, 1) for case, label in labels.items()}

    def get(self, case):
        return SimpleNamespace(label=self.labels[case])

    def foreground(self, case):
        label = self.labels[case]
        return [np.argwhere(label == value) for value in np.unique(label) if value]


LABELS = {"tumour": 7, "background": 0, "vessel": 3, "cyst": 9}


def test_labels_that_no_case_holds_are_named(caplog):
    cache = Cache(a=[0, 0, 0, 2], b=[0, 1, 0, 1], c=[3, 3])
    check_labels(cache, ["a", "b", "c"], LABELS)
    assert caplog.text == ""
    check_labels(cache, ["a"], LABELS)
    assert caplog.records[-1].levelno == logging.WARNING
    assert "no training case holds the label vessel, cyst" in caplog.text


def test_empty_labels_everywhere_are_refused():
    with pytest.raises(
        InputError, match="labels of all 2 training cases are empty: no voxel is vessel or tumour or cyst"
    ):
        check_labels(Cache(a=[0, 0], b=[0, 0]), ["a", "b"], LABELS)


def test_a_training_without_labelled_voxels_does_not_begin(balls, config, tmp_path):
    root = shutil.copytree(balls, tmp_path / "data")
    for path in (root / "labelsTr").iterdir():
        label = nib.load(path)
        nib.save(nib.Nifti1Image(0 * np.asarray(label.dataobj), label.affine), path)
    data = RunData(changed(config, "dataset", root=str(root)), tmp_path / "run", resume=False)
    with pytest.raises(InputError, match="empty: no voxel is ball"):
        data.prepare_data()
