"""One fault of each kind is planted, and found by its code alone."""

import json
import re

import numpy as np
import pytest

from dlka_med.checking.check import check_dataset
from dlka_med.checking.rules import RULES
from tests.checking.datasets import colours, ct, patients, pictures, replant, save, volumes, voxels, with_test
from tests.checking.faults import FAULTS, Fault


def codes(root) -> set[str]:
    return {finding.code for finding in check_dataset(root, workers=0).findings}


@pytest.mark.parametrize("build", [volumes, ct, colours, pictures, with_test])
def test_nothing_is_found_where_nothing_is_wrong(tmp_path, build):
    report = check_dataset(build(tmp_path / "data").root, workers=0)
    assert report.findings == ()
    assert report.is_clean


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_a_planted_fault_is_found_by_its_code_alone(tmp_path, fault: Fault):
    planted = fault.build(tmp_path / "data")
    fault.plant(planted)
    findings = check_dataset(planted.root, workers=0).findings
    assert {finding.code for finding in findings} == {fault.code, *fault.also}
    for finding in findings:
        assert finding.path.startswith(str(planted.root))
        assert finding.wrong
        assert finding.mend
        assert "\n" not in finding.line


@pytest.mark.parametrize(("by", "found"), [(5e-4, set()), (2e-3, {"grid-noise"})])
def test_what_rounding_leaves_of_equal_affines_is_no_noise(tmp_path, by, found):
    planted, affine = volumes(tmp_path / "data"), np.eye(4)
    affine[1, 3] = by
    save(planted.label(0), voxels(planted.label(0)), affine)
    assert codes(planted.root) == found


def test_every_rule_has_its_fault():
    assert {fault.code for fault in FAULTS} == {rule.code for rule in RULES}
    assert len({rule.code for rule in RULES}) == len(RULES) >= 25
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", rule.code) for rule in RULES)


def test_groups_that_are_told_end_the_guess_at_patients(tmp_path):
    planted = patients(tmp_path / "data")
    planted.group(dict.fromkeys(planted.names, ""))
    assert codes(planted.root) == set()


def test_faults_do_not_hide_each_other(tmp_path):
    planted, faults = volumes(tmp_path / "data"), {}
    for fault in FAULTS:
        if fault.code in ("file-unreadable", "voxels-nan", "grid-size"):
            faults[fault.code] = fault
    faults["file-unreadable"].plant(planted)
    assert codes(planted.root) == {"file-unreadable"}
    faults["voxels-nan"].plant(shifted := type(planted)(planted.root, planted.names[1:], planted.ending, planted.mark))
    faults["grid-size"].plant(type(planted)(planted.root, shifted.names[1:], planted.ending, planted.mark))
    assert codes(planted.root) == {"file-unreadable", "voxels-nan", "grid-size"}


def test_regions_and_what_is_ignored_are_declared(tmp_path):
    planted = volumes(tmp_path / "data")
    planted.describe(labels={"background": 0, "all": [1, 2], "tumour": 2, "ignore": 7}, regions_class_order=[1, 2])
    replant(planted.label(0), lambda label: label.__setitem__((0, 0), 7))
    report = check_dataset(planted.root, workers=0)
    assert report.findings == ()
    assert [(name, entry["value"]) for name, entry in report.to_json()["summary"]["labels"].items()] == [
        ("background", 0),
        ("all", [1, 2]),
        ("tumour", 2),
        ("ignore", 7),
    ]
    planted.describe(labels={"background": 0, "all": [1, 2], "lost": [4, 5], "ignore": 7}, regions_class_order=[1, 4])
    (finding,) = check_dataset(planted.root, workers=0).findings
    assert (finding.code, "'lost'" in finding.wrong) == ("label-absent", True)


def test_a_file_of_one_channel_is_not_that_of_another_case(tmp_path):
    planted = volumes(tmp_path / "data")
    for index in range(6):
        channel = planted.image(index).with_name(f"{planted.names[index]}_0001.nii.gz")
        save(channel, voxels(planted.image(index))[::-1])
        planted.image(index).rename(channel.with_name(f"{planted.names[index]}_0000.nii.gz"))
    description = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "organ": 1, "tumour": 2}}
    (planted.root / "dataset.json").write_text(json.dumps(description))
    assert codes(planted.root) == set()
    lent = planted.root / "imagesTr" / "case_0_0001.nii.gz"
    lent.unlink()
    lent.symlink_to("case_1_0001.nii.gz")
    findings = check_dataset(planted.root, workers=0).findings
    assert {(finding.code, finding.case) for finding in findings} == {("file-shared", f"case_{n}") for n in (0, 1)}
    lent.unlink()
    lent.symlink_to("case_0_0000.nii.gz")
    assert [(one.code, one.case) for one in check_dataset(planted.root, workers=0).findings] == [
        ("file-shared", "case_0")
    ]


def test_an_image_is_not_its_own_label(tmp_path):
    planted = volumes(tmp_path / "data")
    training = json.loads((planted.root / "dataset.json").read_text())["training"]
    planted.describe(training=[training[0] | {"label": training[0]["image"]}, *training[1:]])
    [finding] = [one for one in check_dataset(planted.root, workers=0).findings if one.code == "file-shared"]
    assert "image of case_0, label of case_0" in finding.wrong


def test_links_of_twins_and_one_empty_label_may_be_shared(tmp_path):
    planted = volumes(tmp_path / "data")
    training = json.loads((planted.root / "dataset.json").read_text())["training"]
    for index in (0, 1):
        replant(planted.label(index), np.zeros_like)
    planted.describe(training=[training[0], training[1] | {"label": training[0]["label"]}, *training[2:]])
    assert codes(planted.root) == {"label-empty", "label-rare"}
    for folder in ("imagesTr", "labelsTr"):
        link = planted.root / folder / "case_5.nii.gz"
        link.unlink()
        link.symlink_to("case_4.nii.gz")
    assert codes(planted.root) == {"label-empty", "label-rare", "duplicate-cases"}


def test_equal_labels_of_twins_are_equal_whatever_their_number_type(tmp_path):
    planted = volumes(tmp_path / "data")
    planted.image(1).write_bytes(planted.image(0).read_bytes())
    replant(planted.label(1), lambda label: label, np.float32)
    assert codes(planted.root) == {"duplicate-cases"}


def test_nothing_is_wrong_with_a_volume_of_two_axes(tmp_path):
    planted = volumes(tmp_path / "data")
    for index in range(6):
        for path in planted.pair(index):
            replant(path, lambda array: array[:, :, 4])
    assert voxels(planted.image(0)).ndim == 2
    report = check_dataset(planted.root, workers=0)
    assert report.findings == ()
    assert report.summary["size"]["max"] == [8, 9, 1]
