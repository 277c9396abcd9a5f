from dataclasses import replace
from pathlib import Path

import pytest

from dlka_med.data.cases import Case, Dataset
from dlka_med.data.splits import related_to_test, split_cases
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
    assert {split.train, tuple(sorted(split.validation))} == {("case_00",), ("case_01", "case_02")}


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


@pytest.mark.parametrize("seed", range(5))
def test_the_beginning_of_the_validation_is_a_sample_of_its_groups(seed):
    group = {case.id: case.group or case.id for case in PAIRS.cases}
    order = split_cases(PAIRS, folds=4, fold=1, seed=seed).validation
    number = len({group[case] for case in order})
    assert len({group[case] for case in order[:number]}) == number
    assert order != tuple(sorted(order))


def test_which_cases_begin_the_validation_follows_the_seed():
    """Not the alphabet: over many seeds each case comes first about as often."""
    lone = dataset([None] * 12)
    first = [split_cases(lone, folds=2, fold=0, seed=seed).validation[0] for seed in range(300)]
    assert {first.count(case.id) > 8 for case in lone.cases} == {True}


def test_all_cases_train_without_a_fold():
    split = split_cases(PAIRS, folds=99, fold="all", test_cases=["case_04"])
    assert split.train == tuple(case.id for case in PAIRS.cases if case.id not in ("case_04", "case_05"))
    assert (split.validation, split.test) == ((), ("case_04",))
    assert split_cases(dataset([None]), fold="all").train == ("case_00",)
    with pytest.raises(InputError, match="0 groups of cases outside the test, too few for a training: add cases"):
        split_cases(dataset([None]), fold="all", test_cases=["case_00"])
    with pytest.raises(InputError, match=r"1 groups .* too few for 5 folds: .*set .*dataset.fold to all"):
        split_cases(dataset([None]))


def test_who_may_not_train():
    tested = replace(PAIRS, test=(Case("t0", (), None, "p2"), Case("t1", ())))
    assert related_to_test(tested, ["case_06", "case_24"]) == {"case_04", "case_05", "case_06", "case_07", "case_24"}


def test_folds_are_those_of_earlier_versions():
    numbers = [int(case[-2:]) for case in split_cases(PAIRS, folds=4, fold=1, seed=3).validation]
    assert sorted(numbers) == [10, 11, 16, 17, 20, 21]
