"""What lies beside the cases comes along or is told."""

import json
import os

import numpy as np
import pytest

from dlka_med.checking.check import check_dataset
from dlka_med.checking.fix import fix_dataset
from tests.checking.datasets import SHAPE, pictures, save, volumes


def fixed(planted, out):
    return fix_dataset(check_dataset(planted.root, workers=0), out, workers=0)


def without_first_case(root):
    planted = pictures(root)
    planted.image(0).write_bytes(b"")
    return planted


def told(fixes, code):
    return [(fix.file, fix.done, fix.is_loss) for fix in fixes.fixes if fix.code == code]


def test_folders_and_files_of_others_are_copied_byte_by_byte(tmp_path):
    planted = without_first_case(tmp_path / "data")
    others = ("labelsTs/t.png", "labelsVal/more/deep.bin", "preview.png", "LICENSE", "source.txt")
    for name in others:
        (planted.root / name).parent.mkdir(parents=True, exist_ok=True)
        (planted.root / name).write_bytes(os.urandom(9))
    (planted.root / "labelsEmpty").mkdir()
    (planted.root / "linked.txt").symlink_to("source.txt")
    fixes = fixed(planted, tmp_path / "out")
    for name in (*others, "linked.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (planted.root / name).read_bytes()
    assert not (tmp_path / "out" / "linked.txt").is_symlink()
    assert (tmp_path / "out" / "labelsEmpty").is_dir()
    assert {fix.code for fix in fixes.fixes} == {"file-empty", "count-wrong"}


def test_folders_that_may_be_anybodys_are_told_and_stay(tmp_path):
    planted = volumes(tmp_path / "data")
    (planted.root / "results" / "deep").mkdir(parents=True)
    fixes = fixed(planted, tmp_path / "out")
    [(file, done, is_loss)] = told(fixes, "file-unlisted")
    assert (file, is_loss) == (str(planted.root / "results"), False)
    assert "a folder that no dataset needs" in done
    assert not (tmp_path / "out" / "results").exists()


def test_what_belongs_to_no_case_of_a_folder_of_cases_is_told(tmp_path):
    planted = volumes(tmp_path / "data")
    save(planted.root / "labelsTr" / "spare.nii.gz", np.zeros(SHAPE, np.uint8))
    fixes = fixed(planted, tmp_path / "out")
    [(file, done, is_loss)] = told(fixes, "file-unlisted")
    assert (file, is_loss) == (str(planted.root / "labelsTr"), False)
    assert "1 files in it belong to no case, such as spare.nii.gz" in done
    assert not (tmp_path / "out" / "labelsTr" / "spare.nii.gz").exists()


def test_a_link_to_a_folder_around_the_dataset_is_not_followed(tmp_path):
    planted = volumes(tmp_path / "data")
    (planted.root / "labelsUp").symlink_to(tmp_path)
    fixes = fixed(planted, tmp_path / "out")
    assert [fix.file for fix in fixes.left_out] == [str(planted.root / "labelsUp")]
    assert not (tmp_path / "out" / "labelsUp").exists()


def test_what_cannot_be_read_is_told(tmp_path):
    planted = volumes(tmp_path / "data")
    (planted.root / "labelsTs").mkdir()
    (planted.root / "labelsTs" / "gone.txt").symlink_to("nowhere")
    fixes = fixed(planted, tmp_path / "out")
    assert [fix.file for fix in fixes.left_out] == [str(planted.root / "labelsTs" / "gone.txt")]


@pytest.mark.parametrize("is_nnunet", [True, False])
def test_splits_do_not_name_what_the_copy_lacks(tmp_path, is_nnunet):
    planted = without_first_case(tmp_path / "data")
    halves = [[f"cell_{index}" for index in part] for part in ((0, 1, 2), (3, 4, 5))]

    def splits(first, second):
        return [{"train": second, "val": first}, {"train": first, "val": second}] if is_nnunet else [first, second]

    (planted.root / "splits_final.json").write_text(json.dumps(splits(*halves)))
    fixes = fixed(planted, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "splits_final.json").read_text()) == splits(halves[0][1:], halves[1])
    [(_, done, is_loss)] = told(fixes, "case-left-out")
    assert done.endswith("the copy lacks: cell_0")
    assert not is_loss


def test_a_fold_without_validation_is_a_loss(tmp_path):
    planted = without_first_case(tmp_path / "data")
    names = [f"cell_{index}" for index in range(6)]
    (planted.root / "splits_final.json").write_text(json.dumps([names[:1], names[1:]]))
    assert [is_loss for _, _, is_loss in told(fixed(planted, tmp_path / "out"), "case-left-out")] == [False, True]


@pytest.mark.parametrize("text", ['[["cell_1", "cell_2"], ["cell_3"]]', '{"cell_0": 1}', "[1, 2]", "no json"])
def test_other_splits_stay_as_they_are(tmp_path, text):
    planted = without_first_case(tmp_path / "data")
    (planted.root / "splits_final.json").write_text(text)
    fixes = fixed(planted, tmp_path / "out")
    assert (tmp_path / "out" / "splits_final.json").read_text() == text
    assert told(fixes, "case-left-out") == []
