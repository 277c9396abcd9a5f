from dataclasses import replace
from pathlib import Path

import pytest

from dlka_med.data.cases import Case, Dataset
from dlka_med.data.splits import split_cases
from dlka_med.errors import InputError


def dataset(groups: list[str | None]) -> Dataset:
    cases = tuple(Case(f"case_{index:02d}", (), None, group) for index, group in enumerate(groups))
    return Dataset(Path("somewhere"), "test", ("MRI",), {"background": 0, "organ": 1}, cases)


PAIRS = dataset([f"p{index // 2}" for index in range(23)] + [None, None])


def test_folds_partition_the_cases_and_keep_groups_whole():
    group = {case.id: case.group or case.id for case in PAIRS.cases}
    splits = [split_cases(PAIRS, folds=4, fold=fold, seed=3) for fold in range(4)]
    assert sorted(case for split in splits for case in split.validation) == sorted(group)
    for split in splits:
        assert set(split.train) | set(split.validation) == set(group)
        assert not {group[case] for case in split.train} & {group[case] for case in split.validation}
        assert 6 <= len(split.validation) <= 7


def test_seed_and_order():
    assert split_cases(PAIRS, seed=1) == split_cases(PAIRS, seed=1)
    assert split_cases(PAIRS, seed=1) != split_cases(PAIRS, seed=2)
    reversed_cases = Dataset(PAIRS.root, "x", PAIRS.channels, PAIRS.labels, PAIRS.cases[::-1])
    assert split_cases(reversed_cases, seed=1) == split_cases(PAIRS, seed=1)


def test_a_test_case_takes_its_group_along():
    for fold in range(5):
        split = split_cases(PAIRS, folds=5, fold=fold, test_cases=["case_04", "case_24"])
        assert split.test == ("case_04", "case_24")
        assert not {"case_04", "case_05", "case_24"} & {*split.train, *split.validation}
        assert len(split.train) + len(split.validation) == 22


def test_a_lone_case_is_no_member_of_a_group_with_its_name():
    lone = dataset([None, "case_00", "case_00"])
    split = split_cases(lone, folds=2, fold=0)
    assert {split.train, split.validation} == {("case_00",), ("case_01", "case_02")}


def test_mistakes():
    with pytest.raises(InputError, match="has no case 'caze_04'; did you mean 'case_04'"):
        split_cases(PAIRS, test_cases=["caze_04"])
    with pytest.raises(InputError, match="2 groups of cases outside the test, too few for 3 folds"):
        split_cases(dataset(["a", "a", "b"]), folds=3)
    with pytest.raises(InputError, match="fold is 5 of 5"):
        split_cases(PAIRS, folds=5, fold=5)


def test_unlabelled_test_cases_take_their_group_along():
    tested = replace(PAIRS, test=(Case("t0", (), None, "p2"), Case("t1", ())))
    for fold in range(5):
        split = split_cases(tested, folds=5, fold=fold)
        assert {*split.train, *split.validation} == {case.id for case in PAIRS.cases} - {"case_04", "case_05"}
        assert split.test == ()
