"""One fault of each kind is planted, and found by its code alone."""

import re

import pytest

from dlka_med.checking.check import check_dataset
from dlka_med.checking.rules import RULES
from tests.checking.faults import FAULTS, Fault, colours, ct, patients, pictures, volumes, with_test


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
