"""Ids that look like patients, and those that only have numbers."""

import pytest

from dlka_med.checking.rules_dataset import patients


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["p1_a", "p1_b", "p2_a"], {"p1": ["p1_a", "p1_b"], "p2": ["p2_a"]}),
        (["100007_A", "100007_B", "100010_A"], {"100007": ["100007_A", "100007_B"], "100010": ["100010_A"]}),
        (
            ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"],
            {"sub-01_ses": ["sub-01_ses-1", "sub-01_ses-2"], "sub-02_ses": ["sub-02_ses-1"]},
        ),
        ([f"nuclei_{index:03d}" for index in range(9)], {}),
        ([f"hippocampus_{index:03d}" for index in range(9)], {}),
        ([f"siteA_{index}" for index in range(9)] + [f"siteB_{index}" for index in range(9)], {}),
        ([f"{year}_{index:03d}" for year in (2019, 2020) for index in range(50)], {}),
        (["case1", "case2", "case3"], {}),
        (["IXI002-Guys-0828-T1", "IXI012-HH-1211-T1"], {}),
        (["p1_a", "p1_b"], {}),
        ([], {}),
    ],
)
def test_patients_told_by_ids(ids, expected):
    assert patients(ids) == expected


def test_slices_of_a_patient_are_told_however_many():
    found = patients([f"patient{number:02d}_slice{index:03d}" for number in range(3) for index in range(150)])
    assert {patient: len(members) for patient, members in found.items()} == dict.fromkeys(
        ["patient00", "patient01", "patient02"], 150
    )
