"""Which runs predict together, and what they must share."""

import json
import re

import pytest

from dlka_med.errors import InputError
from dlka_med.folds_folder import FoldsFolder
from dlka_med.inference.members import members_of

from .test_predict import make_run


def make_folds(folder, number=3, lacking=(), **changes) -> FoldsFolder:
    folder.mkdir(parents=True)
    (folder / "folds.json").write_text(json.dumps([[f"scan{fold}"] for fold in range(number)]))
    for fold in range(number):
        run = make_run(folder / f"fold_{fold}", **changes)
        if fold in lacking:
            run.weights_file.unlink()
    return FoldsFolder(folder)


def test_a_run_is_alone_and_folds_are_together(tmp_path):
    run, folds = make_run(tmp_path / "run"), make_folds(tmp_path / "folds")
    assert [member.path for member in members_of(str(run.path))] == [run.path]
    paths = [folds.run(fold).path for fold in range(3)]
    assert [member.path for member in members_of(folds.path)] == paths
    assert [member.path for member in members_of([folds.path, run.path])] == [*paths, run.path]


def test_a_fold_without_weights_is_named(tmp_path):
    folds = make_folds(tmp_path / "folds", 4, lacking=(1, 3))
    with pytest.raises(InputError, match="fold_1, fold_3 of 4 folds"):
        members_of(folds.path)


def test_a_run_counts_once(tmp_path):
    folds = make_folds(tmp_path / "folds")
    with pytest.raises(InputError, match="fold_1 is named twice"):
        members_of([folds.path, folds.run(1).path])
    with pytest.raises(InputError, match="no run is named"):
        members_of([])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"channels": ("T2",)}, "dataset.channels is \\['T1'\\] in the one and \\['T2'\\]"),
        ({"labels": {"background": 0, "bright": 3, "grey": 7}}, "dataset.labels"),
        ({"spacing": (1, 1, 2)}, "preprocessing.spacing"),
        ({"orientation": "LPS"}, "preprocessing.orientation"),
        ({"crop_foreground": True}, "preprocessing.crop_foreground"),
        ({"intensity": [{"kind": "robust"}]}, "preprocessing.intensity"),
    ],
)
def test_what_differs_is_named(tmp_path, changes, key):
    runs = [make_run(tmp_path / "a").path, make_run(tmp_path / "b", **changes).path]
    with pytest.raises(InputError, match=rf"a and .*b cannot predict together: {key}"):
        members_of(runs)


@pytest.mark.parametrize(
    ("key", "ours", "theirs"),
    [
        ("training.patch_size", "[6, 6, 6]", "[6, 6, 7]"),
        ("training.precision", "fp32", "bf16"),
        ("inference.overlap", "0.5", "0.25"),
        ("inference.mirror_axes", "[]", "[1]"),
    ],
)
def test_windows_that_differ_are_named(tmp_path, key, ours, theirs):
    runs = [make_run(tmp_path / name) for name in "ab"]
    name, text = key.rpartition(".")[2], runs[1].config_file.read_text()
    runs[1].config_file.write_text(text.replace(f"  {name}: {ours}", f"  {name}: {theirs}"))
    told = rf"{re.escape(key)} is {re.escape(ours)} in the one and {re.escape(theirs)} in the other"
    with pytest.raises(InputError, match=told):
        members_of([run.path for run in runs])


def test_how_greys_are_scaled_is_each_members_own(tmp_path):
    kinds = [{"kind": "ct", "lower": 0, "upper": 9, "mean": number, "std": 1} for number in (3, 4)]
    runs = [make_run(tmp_path / str(kind["mean"]), intensity=[kind]).path for kind in kinds]
    assert len(members_of(runs)) == 2
    assert len(members_of([*runs, make_run(tmp_path / "auto", intensity="auto").path])) == 3
