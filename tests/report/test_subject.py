import json

import pytest

from dlka_med.errors import InputError
from dlka_med.report.subject import case_of, open_subject

from .conftest import HOSTILE, make_run

NAMES = (HOSTILE, *(f"case_{number}" for number in range(1, 6)))


def compared(folder, volumes, seeds=2):
    """The folder of a comparison of two networks."""
    folder.mkdir()
    asked = {"dataset": str(volumes), "networks": ["unet", "dynunet"], "epochs": 2, "folds": [0]}
    (folder / "comparison.json").write_text(json.dumps(asked))
    for network in asked["networks"]:
        for seed in range(seeds):
            path = folder / "runs" / network / f"seed_{seed}" / "fold_0"
            make_run(path, volumes, validation=["case_1", "case_2"], everybody=NAMES)
    return folder


def folds(folder, volumes, trained=(True, True, False)):
    folder.mkdir()
    parts = [NAMES[:2], NAMES[2:4], NAMES[4:]]
    (folder / "folds.json").write_text(json.dumps(parts))
    for fold, (part, has_weights) in enumerate(zip(parts, trained, strict=True)):
        make_run(folder / f"fold_{fold}", volumes, validation=list(part), trained=has_weights, everybody=NAMES)
    return folder


def test_what_a_folder_holds(tmp_path, volumes):
    run = open_subject(make_run(tmp_path / "run", volumes).path)
    assert (run.kind, [part.name for part in run.parts], run.predictions) == ("run", [""], None)
    many = open_subject(folds(tmp_path / "folds", volumes))
    assert (many.kind, [part.name for part in many.parts]) == ("folds", ["fold 0", "fold 1", "fold 2"])
    both = open_subject(compared(tmp_path / "compared", volumes))
    assert both.kind == "comparison"
    assert [part.name for part in both.parts][:2] == ["unet, seed 0, fold 0", "unet, seed 1, fold 0"]
    assert [part.name for part in both.told] == ["unet, seed 0, fold 0"]


def test_predictions_are_found_once_they_are_whole(tmp_path, volumes):
    many = open_subject(folds(tmp_path / "folds", volumes))
    assert many.predictions is None
    (many.path / "crossvalidation.json").touch()
    assert many.predictions == many.path / "predictions"
    both = open_subject(compared(tmp_path / "compared", volumes))
    assert both.predictions is None
    (both.path / "compare.json").touch()
    assert both.predictions == both.path / "predictions" / "unet" / "seed_0"


def test_a_case_goes_to_weights_that_did_not_see_it(tmp_path, volumes):
    many = open_subject(folds(tmp_path / "folds", volumes))
    assert [case_of(many, name)[1].name for name in NAMES[:4]] == ["fold 0", "fold 0", "fold 1", "fold 1"]
    assert case_of(many, NAMES[4])[1].name == "fold 0"  # its own fold has no weights yet


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "there is no run folder"),
        (lambda path: path.mkdir(), "is not a run folder"),
        (lambda path: path.touch(), "is a file"),
        (lambda path: (path / "fold_0").mkdir(parents=True), "no training that has begun"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, make, told):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=told):
        open_subject(tmp_path / "x")


def test_a_dataset_that_moved_is_told(tmp_path, volumes):
    run = make_run(tmp_path / "run", tmp_path / "gone")
    with pytest.raises(InputError, match=r"dataset\.root is .*gone, which is no folder"):
        case_of(open_subject(run.path), "case_1")
    untrained = make_run(tmp_path / "new", volumes, trained=False)
    with pytest.raises(InputError, match=r"weights\.safetensors is missing"):
        case_of(open_subject(untrained.path), "case_1")
