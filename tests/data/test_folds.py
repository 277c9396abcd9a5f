"""Folds that are kept: read, written, joined by new cases."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from dlka_med.data.cases import Case, Dataset
from dlka_med.data.folds import deal_folds, groups_of, join_folds, read_folds, write_folds
from dlka_med.data.splits import find_folds, split_cases
from dlka_med.errors import InputError


def dataset(groups: dict[str, str | None]) -> Dataset:
    cases = tuple(Case(name, (), None, group) for name, group in groups.items())
    return Dataset(Path("somewhere"), "test", ("MRI",), {"background": 0, "organ": 1}, cases)


PAIRS = dataset({f"case_{index:02d}": f"p{index // 2}" for index in range(23)} | {"lone_0": None, "lone_1": None})
KEPT = (("case_00", "case_01", "case_06"), ("case_02", "case_03"), ("case_04", "case_05"))


def grown(whole: Dataset, **groups: str | None) -> Dataset:
    return replace(whole, cases=(*whole.cases, *dataset(groups).cases))


def first(number: int) -> Dataset:
    return replace(PAIRS, cases=PAIRS.cases[:number])


@pytest.fixture
def write(tmp_path):
    def _write(content):
        path = tmp_path / "folds.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return _write


def test_one_case_more_reshuffles_nobody(tmp_path, caplog):
    """Dealt anew, cases move; from a file, the new one alone finds a place."""
    path = tmp_path / "folds.json"
    before = find_folds(PAIRS, 4)
    write_folds(path, before)
    more = grown(PAIRS, another=None)
    assert any(set(now) - {"another"} != set(then) for now, then in zip(deal_folds(more, 4), before, strict=True))
    with caplog.at_level(logging.INFO, "dlka_med"):
        after = find_folds(more, path)
    changed = [index for index, (now, then) in enumerate(zip(after, before, strict=True)) if now != then]
    smallest = min(range(4), key=lambda index: len(before[index]))
    assert changed == [smallest]
    assert after[smallest] == (*before[smallest], "another")
    assert f"{path} does not name all cases; so many join its folds: 1, another (fold {smallest})" in caplog.text


def test_new_cases_keep_to_their_group_and_to_balance():
    more = grown(PAIRS, **{f"new_{index}": f"q{index // 2}" for index in range(8)}, follow_up="p1")
    more = replace(more, cases=more.cases[::-1])
    kept = deal_folds(PAIRS, 4)
    folds = join_folds(kept, more)
    assert join_folds(kept, grown(PAIRS, **{case.id: case.group for case in more.cases[:9]})) == folds
    fold_of = {case: index for index, part in enumerate(folds) for case in part}
    assert sorted(fold_of) == sorted(case.id for case in more.cases)
    for members in groups_of(more):
        assert len({fold_of[case] for case in members}) == 1, members
    assert fold_of["follow_up"] == fold_of["case_02"]
    assert all(part[: len(then)] == then for part, then in zip(folds, kept, strict=True))
    assert max(map(len, folds)) - min(map(len, folds)) <= 2


def test_kept_folds_split_as_dealt_ones_do(tmp_path):
    path = tmp_path / "folds.json"
    write_folds(path, find_folds(PAIRS, 4, seed=3, test_cases=["case_04"]))
    for fold in range(4):
        wanted = split_cases(PAIRS, 4, fold, seed=3, test_cases=["case_04"])
        assert split_cases(PAIRS, path, fold, seed=3, test_cases=["case_04"]) == wanted
        assert split_cases(PAIRS, str(path), fold, seed=3, test_cases=["case_04"]).validation == wanted.validation
    with pytest.raises(InputError, match=r"dataset\.fold is 4 of 4 folds in .*folds\.json"):
        split_cases(PAIRS, path, 4)


def test_cases_of_the_test_stay_out_of_kept_folds():
    """The whole group of a test case leaves its fold, and joins none."""
    folds = join_folds(KEPT, first(7), tested={"case_00", "case_01"})
    assert folds == (("case_06",), *KEPT[1:])


def test_folds_of_nnunet_are_read(write):
    everyone = [case for part in KEPT for case in part]
    splits = [{"train": [case for case in everyone if case not in part], "val": list(part)} for part in KEPT]
    assert read_folds(write(splits)) == KEPT
    assert read_folds(write([list(part) for part in KEPT])) == KEPT
    for fold, part in enumerate(splits):
        split = split_cases(first(7), write(splits), fold)
        assert sorted(split.validation) == sorted(part["val"])
        assert list(split.train) == sorted(part["train"])


def test_names_of_any_alphabet_are_written_and_read(tmp_path):
    folds = (("Müller_1", 'a"b'), ("患者",))
    write_folds(tmp_path / "folds.json", folds)
    assert read_folds(tmp_path / "folds.json") == folds
    assert len((tmp_path / "folds.json").read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[", r"folds\.json cannot be read as JSON .*splits_final\.json"),
        ("{}", r"expected a list of folds"),
        ("[]", r"expected a list of folds"),
        ([["a"], {"train": ["a"], "val": ["b"]}], "fold 1: expected a list of folds"),
        ([["a"], [1]], "fold 1: expected a list of folds"),
        ([{"train": ["a"]}, {"train": ["b"], "val": ["a"]}], "fold 0: expected a list of folds"),
        ([{"val": ["a"]}, {"train": ["b"], "val": ["a"]}], "stands in the folds 2 times"),
        ([{"val": ["b"]}, {"train": ["b"], "val": ["a"]}], "fold 0, train: expected a list of folds"),
        ([["a", "b"], ["b"]], "'b' stands in the folds 2 times: a case validates once"),
        ([["a", "b"]], "holds one fold, .*give two lists"),
        ([{"train": ["b", "c"], "val": ["a"]}], "fold 0 trains on cases that validate in no fold: b, c;.*two lists"),
        (
            [{"train": ["a", "b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}],
            "trains on cases that validate in it: a",
        ),
        (
            [{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}, {"train": ["a", "b"], "val": ["c"]}],
            "fold 0 neither trains on nor validates c",
        ),
    ],
)
def test_a_file_that_holds_no_folds_is_explained(write, content, words):
    with pytest.raises(InputError, match=words):
        read_folds(write(content))


def test_a_file_that_is_not_there_or_pickled_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json cannot be read: No such file"):
        read_folds(tmp_path / "nowhere.json")
    (tmp_path / "splits_final.pkl").write_bytes(b"\x80\x04\x95\xff.")
    with pytest.raises(InputError, match=r"splits_final\.pkl.*not UTF-8"):
        read_folds(tmp_path / "splits_final.pkl")


def test_named_cases_that_are_absent_are_refused():
    with pytest.raises(InputError, match=r"folds names 2 cases that somewhere lacks: case_99, x; take them out"):
        join_folds((*KEPT, ("case_99", "x")), first(7))


@pytest.mark.parametrize(("folds", "tested"), [((*KEPT, ()), set()), (KEPT, {"case_02", "case_03"})])
def test_a_fold_without_cases_is_refused(folds, tested):
    index = 3 if len(folds) == 4 else 1
    with pytest.raises(InputError, match=rf"mine: fold {index} has no case.*nothing would validate in it"):
        join_folds(folds, PAIRS, tested, source="mine")


def test_folds_that_leak_are_refused_unless_told_otherwise(write, caplog):
    leaking = write([["case_00", "case_02"], ["case_01", "case_03", "case_04"]])
    with pytest.raises(InputError, match=r"2 groups lie in several folds, such as that of case_00, case_01.*_may_leak"):
        split_cases(first(5), leaking)
    split = split_cases(first(5), leaking, may_leak=True)
    assert (split.train, sorted(split.validation)) == (("case_01", "case_03", "case_04"), ["case_00", "case_02"])
    assert "2 groups lie in several folds" in caplog.text
    joined = find_folds(grown(first(5), new="p1"), leaking, may_leak=True)
    assert ["new" in part for part in joined].count(True) == 1


def test_a_group_that_no_longer_trains_leaks_nothing(write):
    folds = write([["case_00", "case_02"], ["case_01", "case_04"]])
    split = split_cases(first(5), folds, test_cases=["case_00"])
    assert sorted((*split.train, *split.validation)) == ["case_02", "case_03", "case_04"]
    assert split.test == ("case_00",)
