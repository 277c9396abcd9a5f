"""The check of a whole dataset: what it says, keeps and refuses."""

import json

import numpy as np
import pytest

from dlka_med.checking.check import check_dataset
from dlka_med.errors import InputError
from tests.checking.datasets import pictures, replant, save, volumes, voxels
from tests.checking.faults import FAULTS

PROJECT_SETS = ["Task04_Hippocampus", "Dataset101_Nuclei"]


@pytest.mark.parametrize("name", PROJECT_SETS)
def test_the_shared_sets_have_no_error_and_no_warning(shared_data, name):
    report = check_dataset(shared_data / name, workers=2)
    worse = [finding.line for finding in report.findings if finding.severity != "note"]
    assert worse == []
    assert report.summary["readable"] == report.summary["cases"] > 100


def test_the_summary_counts_what_is_there(tmp_path):
    planted = volumes(tmp_path / "data", test=1)
    summary = check_dataset(planted.root, workers=0).summary
    labels = [voxels(planted.label(index)) for index in range(6)]
    assert (summary["cases"], summary["test"], summary["readable"], summary["groups"]) == (6, 1, 7, 0)
    assert summary["spacing"]["median"] == [1, 1, 1]
    assert summary["size"]["max"] == [8, 9, 10]
    for name, value in {"background": 0, "organ": 1, "tumour": 2}.items():
        told = summary["labels"][name]
        assert told["voxels"] == sum(int((label == value).sum()) for label in labels)
        assert told["share"] == pytest.approx(told["voxels"] / sum(label.size for label in labels))
        assert told["cases"] == 6
    [(channel, grey)] = summary["channels"].items()
    images = [voxels(path) for path in [*(planted.image(i) for i in range(6)), planted.root / "imagesTs/test_6.nii.gz"]]
    assert (channel, grey["min"], grey["max"]) == ("MRI", min(i.min() for i in images), max(i.max() for i in images))


def test_the_summary_counts_regions_as_a_whole(tmp_path):
    planted = volumes(tmp_path / "data")
    planted.describe(labels={"background": 0, "all": [1, 2], "tumour": 2, "ignore": 7}, regions_class_order=[1, 2])
    replant(planted.label(0), lambda label: label.clip(max=1))
    replant(planted.label(1), lambda label: label // 2 * 2)
    report = check_dataset(planted.root, workers=0)
    labels = [voxels(planted.label(index)) for index in range(6)]
    for name, values in {"background": [0], "all": [1, 2], "tumour": [2], "ignore": [7]}.items():
        held = [np.isin(label, values) for label in labels]
        told = report.summary["labels"][name]
        assert (told["voxels"], told["cases"]) == (sum(map(np.sum, held)), sum(map(np.any, held)))
    assert report.summary["labels"]["all"]["value"] == [1, 2]
    assert "1,2  all: " in report.describe()


def test_workers_find_the_same(tmp_path):
    planted = volumes(tmp_path / "data")
    for fault in FAULTS:
        if fault.code in ("voxels-nan", "count-wrong"):
            fault.plant(planted)
    alone, together = (check_dataset(planted.root, workers=workers) for workers in (0, 2))
    assert together.findings == alone.findings
    assert together.summary == alone.summary


def test_many_findings_of_a_code_are_counted_and_all_are_in_the_json(tmp_path):
    planted = pictures(tmp_path / "data")
    for index in range(6):
        replant(planted.label(index), lambda label: label * 255)
    report = check_dataset(planted.root, workers=0)
    text = report.describe()
    assert text.count("error    mask-255  ") == 3
    assert "mask-255  ... and 3 more" in text
    assert text.endswith("6 errors\n")
    report.save(tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["counts"] == {"error": 6, "warning": 0, "note": 0}
    assert {finding["code"] for finding in stored["findings"]} == {"mask-255"}
    assert [finding["path"] for finding in stored["findings"]] == [str(planted.label(index)) for index in range(6)]
    assert stored["summary"]["cases"] == 6


def test_mended_files_are_read_again(tmp_path):
    planted = volumes(tmp_path / "data")
    sound = voxels(planted.label(0))
    save(planted.label(0), sound + 5)
    assert not check_dataset(planted.root, workers=0).is_clean
    save(planted.label(0), sound)
    assert check_dataset(planted.root, workers=0).is_clean


def test_a_folder_of_no_known_layout_is_shown(tmp_path):
    (tmp_path / "scans").mkdir()
    for name in ("a.nii.gz", "b.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError) as told:
        check_dataset(tmp_path)
    for words in (
        "the folders scans",
        "2 files .nii.gz",
        "1 file .txt",
        "Decathlon",
        "nnU-Net v2",
        "images and labels",
    ):
        assert words in str(told.value)


def test_a_description_of_no_known_layout_is_shown(tmp_path):
    description = {"modality": {"0": "MRI"}, "labels": {"background": 0, "organ": 1}, "cases": []}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="its keys are 'modality', 'labels', 'cases'; known are"):
        check_dataset(tmp_path)


def test_folds_decide_what_is_rare(tmp_path):
    planted = volumes(tmp_path / "data")
    for folds, expected in ((6, set()), (7, {"label-rare"})):
        assert {finding.code for finding in check_dataset(planted.root, workers=0, folds=folds).findings} == expected


def test_the_planned_spacing_decides_what_vanishes(tmp_path):
    planted = volumes(tmp_path / "data")
    for spacing, expected in (((1.0, 1.0, 2.0), set()), ((1.0, None, 3.0), {"label-vanishes"})):
        findings = check_dataset(planted.root, workers=0, spacing=spacing).findings
        assert {finding.code for finding in findings} == expected


def test_images_beside_labels_need_no_description(tmp_path):
    planted = pictures(tmp_path / "data")
    for index in range(6):
        for folder, path in (("images", planted.image(index)), ("labels", planted.label(index))):
            save(tmp_path / "pair" / folder / f"{index}.png", voxels(path))
    report = check_dataset(tmp_path / "pair", channels=["R", "G", "B"], labels={"background": 0, "cell": 1}, workers=0)
    assert report.findings == ()
