"""What is wrong with single cases is collected, and the others go on."""

import json

import numpy as np
import pytest

from dlka_med.data.cases import read_dataset
from dlka_med.data.refusals import Refusals
from dlka_med.errors import InputError


def read(root):
    refusals = Refusals()
    return read_dataset(root, refusals=refusals), [(refusal.code, refusal.path.name) for refusal in refusals]


def test_a_sound_dataset_is_the_same_either_way(decathlon):
    root = decathlon(["a", "b"])
    assert read(root) == (read_dataset(root), [])


@pytest.mark.parametrize("gone", ["imagesTr/a.nii.gz", "labelsTr/a.nii.gz"])
def test_cases_may_name_files_that_are_not_there(decathlon, gone):
    root = decathlon(["a", "b"])
    whole = read_dataset(root)
    (root / gone).unlink()
    with pytest.raises(InputError, match="but there is no"):
        read_dataset(root)
    assert read(root) == (whole, [])


@pytest.mark.parametrize("gone", ["imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz"])
def test_channels_and_labels_that_are_not_there_stay_named(nnunet, gone):
    root = nnunet(["a", "b"])
    whole = read_dataset(root)
    (root / gone).unlink()
    with pytest.raises(InputError, match="there is no"):
        read_dataset(root)
    assert read(root) == (whole, [])


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("imagesTr/a_0002.nii.gz", "file-stray"),
        ("imagesTr/c.nii.gz", "file-stray"),
        ("imagesTr/a_0000.nii", "file-stray"),
        ("labelsTr/c.nii.gz", "file-stray"),
        ("labelsTr/a.nii", "case-twice"),
    ],
)
def test_files_of_no_case_are_told_with_the_others(nnunet, save, name, code):
    root = nnunet(["a", "b"])
    whole = read_dataset(root)
    save(root / name, np.ones((2, 2, 2), np.uint8))
    with pytest.raises(InputError):
        read_dataset(root)
    dataset, refusals = read(root)
    assert [case.id for case in dataset.cases] == [case.id for case in whole.cases]
    assert [found for found, _ in refusals] == [code]


def test_one_case_of_a_name_is_kept(decathlon):
    root = decathlon(["a", "b"])
    description = json.loads((root / "dataset.json").read_text())
    description["training"] *= 2
    (root / "dataset.json").write_text(json.dumps(description))
    dataset, refusals = read(root)
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert refusals == [("case-twice", "a.nii.gz"), ("case-twice", "b.nii.gz")]


def test_the_kind_that_there_is_most_of_is_kept(decathlon, save):
    root = decathlon(["a", "b"])
    for folder in ("imagesTr", "labelsTr"):
        save(root / folder / "photo.png", np.ones((3, 4), np.uint8))
    description = json.loads((root / "dataset.json").read_text())
    photo = {"image": "imagesTr/photo.png", "label": "labelsTr/photo.png"}
    description["training"] = [photo, *description["training"]]
    (root / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="mixes volumes"):
        read_dataset(root)
    dataset, refusals = read(root)
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert refusals == [("kinds-mixed", "photo.png")]


def test_files_of_a_foreign_kind_are_told(decathlon):
    root = decathlon(["a", "b"])
    description = json.loads((root / "dataset.json").read_text())
    description["training"][0]["image"] = "imagesTr/a.mat"
    (root / "dataset.json").write_text(json.dumps(description))
    dataset, refusals = read(root)
    assert ([case.id for case in dataset.cases], refusals) == (["b"], [("file-stray", "a.mat")])


def test_a_wrong_table_of_groups_is_told(decathlon):
    root = decathlon(["a", "b"])
    (root / "groups.csv").write_text("case,group\na,1\n")
    dataset, refusals = read(root)
    assert [case.group for case in dataset.cases] == [None, None]
    assert refusals == [("groups-wrong", "groups.csv")]


def test_a_description_that_contradicts_itself_stays_a_refusal(decathlon):
    root = decathlon(["a", "b"], labels={"0": "background"})
    with pytest.raises(InputError, match="two values or more"):
        read(root)
