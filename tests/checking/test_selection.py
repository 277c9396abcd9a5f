"""What is left out for another one's sake, and that the other one is there."""

import shutil

import numpy as np

from dlka_med.checking.check import check_dataset
from dlka_med.checking.fix import fix_dataset
from dlka_med.data.cases import read_dataset
from tests.checking.datasets import Planted, replant, save, volumes, voxels, with_test


def fixed(planted: Planted, out):
    fixes = fix_dataset(check_dataset(planted.root, workers=0), out, workers=0)
    dataset = read_dataset(out)
    kept = {case.id for case in (*dataset.cases, *dataset.test)}
    assert fixes.cases == len(kept)
    stored = {path.name.removesuffix(".nii.gz") for path in out.rglob("*.nii.gz")}
    assert stored == kept
    return kept, fixes


def twins(planted: Planted, *cases: int) -> None:
    for index in cases:
        shutil.copy(planted.image(0), planted.image(index))


def undeclared(planted: Planted, index: int) -> None:
    replant(planted.label(index), lambda label: label.__setitem__((0, 0, 0), 9))


def test_the_twin_of_a_case_that_is_left_out_stays(tmp_path):
    planted = volumes(tmp_path / "data")
    twins(planted, 1, 2)
    undeclared(planted, 0)
    kept, fixes = fixed(planted, tmp_path / "out")
    assert kept == {"case_1", "case_3", "case_4", "case_5"}
    assert {fix.case: fix.code for fix in fixes.fixes if fix.case} == {
        "case_0": "label-undeclared",
        "case_2": "duplicate-cases",
    }
    assert [fix.case for fix in fixes.left_out] == ["case_0"]


def test_the_twin_of_a_case_that_turns_out_to_be_unmendable_stays(tmp_path):
    planted = volumes(tmp_path / "data")
    twins(planted, 1)
    affine = np.eye(4)
    affine[1, 3] = 500
    save(planted.label(0), voxels(planted.label(0)), affine)
    kept, fixes = fixed(planted, tmp_path / "out")
    assert kept == {f"case_{index}" for index in range(1, 6)}
    assert [(fix.case, fix.code) for fix in fixes.fixes if fix.case] == [("case_0", "grid-affine")]


def test_a_case_to_predict_stays_if_its_twin_does_not_train(tmp_path):
    planted = with_test(tmp_path / "data")
    shutil.copy(planted.image(0), planted.root / "imagesTs" / "test_6.nii.gz")
    undeclared(planted, 0)
    kept, _ = fixed(planted, tmp_path / "out")
    assert kept == {*(f"case_{index}" for index in range(1, 6)), "test_6"}


def test_a_case_stays_if_its_group_is_not_in_the_test_of_the_copy(tmp_path):
    planted = with_test(tmp_path / "data")
    planted.group({name: "" for name in planted.names[1:]} | {planted.names[0]: "A", "test_6": "A"})
    (planted.root / "imagesTs" / "test_6.nii.gz").write_bytes(b"")
    kept, _ = fixed(planted, tmp_path / "out")
    assert kept == set(planted.names)


def test_one_of_a_group_in_the_test_that_is_also_its_twin_stays(tmp_path):
    planted = with_test(tmp_path / "data")
    planted.group({name: "" for name in planted.names[1:]} | {planted.names[0]: "A", "test_6": "A"})
    shutil.copy(planted.image(0), planted.root / "imagesTs" / "test_6.nii.gz")
    kept, fixes = fixed(planted, tmp_path / "out")
    assert kept == set(planted.names)
    assert fixes.left_out == ()


def test_a_second_annotation_is_a_loss(tmp_path):
    planted = volumes(tmp_path / "data")
    twins(planted, 1, 2)
    for index in (1, 2):
        replant(planted.label(index), lambda label: label.__setitem__((3, 3, 3), 1))
    kept, fixes = fixed(planted, tmp_path / "out")
    assert kept == {"case_0", "case_3", "case_4", "case_5"}
    assert {(fix.case, fix.code) for fix in fixes.left_out} == {
        ("case_1", "duplicate-labels-differ"),
        ("case_2", "duplicate-labels-differ"),
    }
    assert "nothing is lost" not in fixes.describe()


def test_annotations_that_agree_but_with_a_broken_one_are_no_loss(tmp_path):
    planted = volumes(tmp_path / "data")
    twins(planted, 1, 2)
    for index in (1, 2):
        replant(planted.label(index), lambda label: label.__setitem__((3, 3, 3), 1))
    undeclared(planted, 0)
    kept, fixes = fixed(planted, tmp_path / "out")
    assert kept == {"case_1", "case_3", "case_4", "case_5"}
    assert [fix.case for fix in fixes.left_out] == ["case_0"]
