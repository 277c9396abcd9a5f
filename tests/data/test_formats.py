"""What a folder holds, in a few words, and names that no table or log could hold."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dlka_med.data.cases import find_cases, read_dataset
from dlka_med.data.formats import contents, label_files
from dlka_med.data.refusals import Refusals
from dlka_med.errors import InputError

LABELS = {"background": 0, "organ": 1}
REFUSED = r"M\\udcfcller\S*: the name is not valid UTF-8.*: rename it"


def to_latin_1(path: Path) -> Path:
    """The file or folder called as in an archive of an old system: Müller instead of b."""
    old = path.with_name(path.name.replace("b", os.fsdecode(b"M\xfcller")))
    try:
        return path.rename(old)
    except OSError:
        pytest.skip("this file system has no such names")


@pytest.fixture
def odd_nnunet(nnunet):
    root = nnunet(["a", "b"], channels=1)
    return root, to_latin_1(root / "imagesTr/b_0000.nii.gz"), to_latin_1(root / "labelsTr/b.nii.gz")


@pytest.fixture
def odd_pair(tmp_path, save):
    for folder in ("images", "labels"):
        for name in "ab":
            save(tmp_path / folder / f"{name}.png", np.ones((3, 4), np.uint8))
    return tmp_path, to_latin_1(tmp_path / "images/b.png"), to_latin_1(tmp_path / "labels/b.png")


@pytest.fixture
def odd_decathlon(decathlon):
    """Python writes such names as lone surrogates into dataset.json, and finds them again."""
    root = decathlon(["a", "b"])
    image, label = to_latin_1(root / "imagesTr/b.nii.gz"), to_latin_1(root / "labelsTr/b.nii.gz")
    facts = json.loads((root / "dataset.json").read_text())
    facts["training"][1] = {"image": f"imagesTr/{image.name}", "label": f"labelsTr/{label.name}"}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root, image, label


@pytest.fixture(params=["odd_nnunet", "odd_pair", "odd_decathlon"])
def odd(request):
    """A dataset of the cases a and Müller, and the image and label of Müller, which are named in Latin-1."""
    return request.getfixturevalue(request.param)


def test_a_folder_is_told_by_its_folders_and_endings(tmp_path):
    assert contents(tmp_path) == "nothing"
    for name in ("a.nii.gz", "b.nii.gz", "C.NII.GZ", "d.png", "README", ".hidden"):
        (tmp_path / name).touch()
    assert contents(tmp_path) == "3 files .nii.gz, 1 file without ending, 1 file .png"
    for name in ("scans", "masks"):
        (tmp_path / name).mkdir()
    assert contents(tmp_path) == "the folders masks, scans and 3 files .nii.gz, 1 file without ending, 1 file .png"


def test_names_that_are_not_utf_8_are_refused(odd):
    root, image, label = odd
    for read in (
        lambda: read_dataset(root, channels=["T0"], labels=LABELS),
        lambda: find_cases(root, ["T0"], LABELS, renamed=True),
        lambda: find_cases(image.parent, ["T0"], renamed=True),
        lambda: find_cases(image, ["T0"], renamed=True),
        lambda: label_files(label.parent),
    ):
        with pytest.raises(InputError, match=REFUSED) as told:
            read()
        assert str(told.value).encode("utf-8")


def test_who_collects_refusals_is_told_each_name_once(odd):
    root, refusals = odd[0], Refusals()
    dataset = read_dataset(root, channels=["T0"], labels=LABELS, refusals=refusals)
    assert [case.id for case in dataset.cases] == ["a"]
    assert [refusal.code for refusal in refusals] == ["file-stray"] * 2
    assert all(str(refusal.path).encode("utf-8") and "rename it" in refusal.said for refusal in refusals)


def test_files_that_the_list_calls_otherwise_are_told_to_who_collects(decathlon):
    root, refusals = decathlon(["a", "b"]), Refusals()
    to_latin_1(root / "imagesTr/b.nii.gz")
    dataset = read_dataset(root, refusals=refusals)
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert [refusal.path.name for refusal in refusals] == [r"M\udcfcller.nii.gz"]


def test_a_folder_whose_name_is_not_utf_8_is_refused(nnunet):
    root = nnunet(["x"])
    root = to_latin_1(root.rename(root.with_name("b")))
    for read in (read_dataset, label_files, lambda path: find_cases(path, ["T0", "T1"])):
        with pytest.raises(InputError, match=REFUSED):
            read(root)
