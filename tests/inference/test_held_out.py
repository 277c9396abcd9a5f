"""Who has not trained a run, and what keeps one from learning on them."""

import shutil

import pytest

from dlka_med.errors import InputError
from dlka_med.inference import held_out as module
from tests.held_out_runs import CASES, folds_of, make_dataset, make_run


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "data")


@pytest.fixture
def run(dataset, tmp_path):
    return make_run(tmp_path / "run", dataset, [f"scan{case}" for case in range(CASES)])


def held_out(path):
    return module.held_out(path, "a temperature")


def test_a_run_has_its_validation_cases(run, dataset):
    (found,) = held_out(run.path)
    assert found.run.path == run.path
    assert [(case.id, case.group) for case in found.cases][:4] == [
        ("scan0", "ann"), ("scan1", "ann"), ("scan2", "bob"), ("scan3", None),
    ]  # fmt: skip
    assert all(case.label.is_file() for case in found.cases)


def test_every_fold_has_its_own(dataset, tmp_path):
    parts = [["scan0", "scan1"], ["scan2"], ["scan3", "scan4", "scan5"]]
    runs = folds_of(tmp_path / "folds", dataset, parts)
    found = held_out(tmp_path / "folds")
    assert [one.run.path for one in found] == [run.path for run in runs]
    assert [[case.id for case in one.cases] for one in found] == parts
    (one,) = held_out(tmp_path / "folds" / "fold_2")
    assert [case.id for case in one.cases] == parts[2]


def test_a_missing_fold_is_named(dataset, tmp_path):
    folds_of(tmp_path / "folds", dataset, [["scan0"], ["scan1"], ["scan2"]])
    shutil.rmtree(tmp_path / "folds" / "fold_1")
    with pytest.raises(InputError, match="fold_1 of 3 folds has no weights yet: finish dlka train --folds all"):
        held_out(tmp_path / "folds")


def test_without_weights_nothing_can_be_predicted(run):
    run.weights_file.unlink()
    with pytest.raises(InputError, match=r"weights\.safetensors is missing"):
        held_out(run.path)


@pytest.mark.parametrize(
    ("fold", "told"), [("all", r", since it was trained on all cases \(dataset\.fold: all\)"), (0, "")]
)
def test_who_has_seen_all_cases_has_none_left(dataset, tmp_path, fold, told):
    run = make_run(tmp_path / "all", dataset, [], fold=fold)
    with pytest.raises(InputError, match=rf"split\.json has no validation case{told}: a temperature needs"):
        held_out(run.path)


def test_a_dataset_that_has_moved_is_told(run, dataset):
    dataset.rename(dataset.parent / "elsewhere")
    with pytest.raises(InputError, match=r"config\.yaml: dataset\.root is .*data, which is no folder: set it to"):
        held_out(run.path)


def test_a_case_that_is_gone_is_named(dataset, tmp_path):
    run = make_run(tmp_path / "run", dataset, ["scan0", "scan9"])
    with pytest.raises(InputError, match=r"lacks 1 of the 2 validation cases of .*split\.json, such as scan9"):
        held_out(run.path)


def test_a_label_that_is_gone_is_named(run, dataset):
    (dataset / "labelsTr" / "scan2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"scan2 has no label"):
        held_out(run.path)
