"""Labels are matched by name and cases by id; what has no partner is told and left out."""

import json
import logging

import nibabel as nib
import numpy as np
import pytest

from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.evaluation.pairing import pair_labels
from dlka_med.evaluation.tables import format_summary

OURS = {"background": 0, "liver": 1, "spleen": 2}
THEIRS = {"background": 0, "spleen": 1, "liver": 2}


def anatomy(values):
    """A liver of 6 and a spleen of 3 voxels per row, and nothing else, in a numbering."""
    array = np.zeros((12, 6, 6), np.uint8)
    array[0:6], array[8:11] = values["liver"], values["spleen"]
    return array


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


@pytest.fixture
def dataset(tmp_path):
    """Names of both sides and cases -> their folders; each side is drawn in its own numbering."""

    def make(ours=None, theirs=None, predicted=("a", "b"), referred=("a", "b"), drawn=(OURS, THEIRS)):
        predictions, references = tmp_path / "predictions", tmp_path / "data" / "labelsTr"
        for folder, cases, values in ((predictions, predicted, drawn[0]), (references, referred, drawn[1])):
            for case in cases:
                save(folder / f"{case}.nii.gz", anatomy(values))
        if ours is not None:
            (predictions / "labels.json").write_text(json.dumps({"labels": ours}))
        if theirs is not None:
            (references.parent / "dataset.json").write_text(json.dumps({"labels": theirs}))
        return predictions, references

    return make


def test_labels_are_matched_by_name_each_side_by_its_own_values(dataset, caplog):
    result = evaluate(*dataset(OURS, THEIRS))
    assert list(result.labels) == ["liver", "spleen"]
    assert (result.mean["dice"].mean, result.mean["hd95"].mean) == (1, 0)
    liver = result.scores[0]
    assert (liver.reference_voxels, liver.prediction_voxels) == (6 * 36, 6 * 36)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_values_are_checked_against_the_own_side(dataset):
    predictions, references = dataset(OURS, {"background": 0, "spleen": 11, "liver": 12})
    with pytest.raises(InputError, match=r"labelsTr.a\.nii\.gz holds the values 1, 2.*spleen 11, liver 12"):
        evaluate(predictions, references)


@pytest.mark.parametrize("named", ["ours", "theirs"])
def test_without_names_on_one_side_its_values_are_those_of_the_other(dataset, caplog, named):
    with caplog.at_level(logging.INFO, "dlka_med"):
        result = evaluate(*dataset(**{named: OURS}, drawn=(OURS, OURS)))
    assert list(result.labels) == ["liver", "spleen"]
    assert result.mean["dice"].mean == 1
    told = {"ours": "labelsTr has no dataset.json: its values", "theirs": "predictions has no labels.json: its values"}
    assert told[named] in caplog.messages[0]


def test_without_any_names_values_are_values(dataset, caplog):
    with caplog.at_level(logging.INFO, "dlka_med"):
        assert list(evaluate(*dataset(drawn=(OURS, OURS))).labels) == ["label_1", "label_2"]
    assert len(caplog.messages) == 1  # the line of progress


def test_a_name_that_one_side_lacks_is_told_and_left_out(dataset, tmp_path, caplog):
    predictions, references = dataset(OURS | {"gut": 3}, THEIRS | {"kidney": 7, "bone": 9})
    result = evaluate(predictions, references, tmp_path / "out")
    assert list(result.labels) == ["liver", "spleen"]
    assert result.mean["dice"].mean == 1
    assert caplog.messages[:2] == [
        "1 of 3 labels are unknown to the references and are left out: gut",
        "2 of 4 labels are unknown to the predictions and are left out: kidney, bone",
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["labels_without_reference"] == ["gut"]
    assert summary["labels_without_prediction"] == ["kidney", "bone"]
    assert "kidney, bone, gut" in format_summary(result)
    with pytest.raises(InputError, match="unknown to the references: gut"):
        evaluate(predictions, references, strict=True)


def test_no_name_in_common_is_refused(dataset):
    with pytest.raises(
        InputError, match=r"predictions name liver, spleen and the references Leber, Milz.*labels\.json"
    ):
        evaluate(*dataset(OURS, {"background": 0, "Leber": 1, "Milz": 2}))


def test_a_broken_description_of_the_references_is_told_and_theirs_read_as_ours(dataset, caplog):
    predictions, references = dataset(OURS, {"background": 0, "whole": [0, 2]})
    pairs = pair_labels(predictions, references)
    assert pairs.predicted == pairs.referred == {"liver": (1,), "spleen": (2,)}
    assert "'whole' holds the background" in caplog.messages[0]
    (predictions / "labels.json").unlink()
    with pytest.raises(InputError, match="'whole' holds the background"):
        pair_labels(predictions, references)


def test_regions_are_unions_of_either_side_and_ignored_voxels_are_not_scored(tmp_path):
    """By hand: the references number tumour 2 and oedema 3, the predictions 1 and 2; a quarter is ignored."""
    truth, guess = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    truth[:4], truth[4:6], truth[:, :2] = 3, 2, 9
    guess[:4], guess[4:8], guess[:, :2] = 2, 1, 1
    save(tmp_path / "p" / "a.nii.gz", guess)
    save(tmp_path / "r" / "a.nii.gz", truth)
    ours = {"background": 0, "whole": [1, 2], "tumour": 1}
    theirs = {"background": 0, "tumour": [2], "whole": [3, 2], "ignore": 9}
    (tmp_path / "p" / "labels.json").write_text(json.dumps({"labels": ours, "regions_class_order": [2, 1]}))
    (tmp_path / "r" / "dataset.json").write_text(json.dumps({"labels": theirs}))
    result = evaluate(tmp_path / "p", tmp_path / "r")
    assert list(result.labels) == ["whole", "tumour"]
    assert result.labels["whole"]["dice"].mean == pytest.approx(2 * 6 / (6 + 8))
    assert result.labels["tumour"]["dice"].mean == pytest.approx(2 * 2 / (2 + 4))
    assert [(row.reference_voxels, row.prediction_voxels) for row in result.scores] == [(288, 384), (96, 192)]


def test_the_root_of_a_dataset_is_read_by_its_own_values(dataset, tmp_path):
    predictions, _ = dataset(OURS)
    root = tmp_path / "data"
    for case in ("a", "b"):
        save(root / "imagesTr" / f"{case}_0000.nii.gz", np.ones((12, 6, 6), np.uint8))
    facts = {"channel_names": {"0": "CT"}, "labels": THEIRS, "numTraining": 2, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(facts))
    assert evaluate(predictions, root).mean["dice"].mean == 1


def test_more_predictions_than_references_are_named_counted_and_left_out(dataset, tmp_path, caplog):
    predictions, references = dataset(OURS, THEIRS, predicted="abcde", referred="bf")
    save(predictions / "a.nii.gz", np.zeros((3, 3, 3), np.uint8))  # would count, or fail, if it were read
    result = evaluate(predictions, references, tmp_path / "out")
    assert (result.cases, result.mean["dice"].mean) == (1, 1)
    assert {score.case for score in result.scores} == {"b"}
    assert caplog.messages[:2] == [
        "4 of 5 predictions have no reference and are left out: a, c, d, ...",
        "1 of 2 references have no prediction and are left out: f",
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["cases_without_reference"] == ["a", "c", "d", "e"]
    assert summary["cases_without_prediction"] == ["f"]
    assert "4 predictions without a reference are not counted" in format_summary(result)


@pytest.mark.parametrize(
    ("predicted", "referred", "told"),
    [
        ("abc", "ab", "1 of 3 predictions have no reference: c"),
        ("a", "abc", "2 of 3 references have no prediction: b, c"),
    ],
)
def test_strict_refuses_cases_of_one_side_and_writes_nothing(dataset, tmp_path, predicted, referred, told):
    folders = dataset(OURS, THEIRS, predicted=predicted, referred=referred)
    with pytest.raises(InputError, match=told):
        evaluate(*folders, tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()


def test_strict_is_content_where_all_has_a_partner(dataset):
    assert evaluate(*dataset(OURS, THEIRS), strict=True).mean["dice"].mean == 1


def test_of_some_cases_the_others_are_not_told(dataset, caplog):
    folders = dataset(OURS, THEIRS, predicted="abcd", referred="abef")
    result = evaluate(*folders, only="ace", against=[folders[1]])
    assert {score.case for score in result.scores} == {"a"}
    assert (result.cases_without_reference, result.cases_without_prediction) == (("c",), ("e",))
    assert result.comparisons[0].cases == 1
    with pytest.raises(InputError, match="none of the 2 cases that are meant, such as c, has a pair"):
        evaluate(*folders, only="ce")
