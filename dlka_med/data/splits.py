"""Who trains, who validates, who is kept for the test."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from dlka_med.data.cases import Dataset
from dlka_med.data.folds import Folds, deal_folds, groups_of, join_folds, read_folds
from dlka_med.errors import InputError


@dataclass(frozen=True)
class Split:
    """Case ids of each part: train and test sorted, validation in an order whose beginning is a fair sample."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()


def split_cases(
    dataset: Dataset,
    folds: int | str | Path = 5,
    fold: int | Literal["all"] = 0,
    seed: int = 0,
    test_cases: Sequence[str] = (),
    *,
    may_leak: bool = False,
) -> Split:
    """One fold of a cross-validation.

    The whole group of a test case, named or in `dataset.test`, is kept out of training and validation; `test` holds
    the named cases only. In the order of `validation` the groups take turns, drawn by `seed`.

    Args:
        folds, may_leak: as in `find_folds`.
        fold: the one that validates; all: every case outside the test trains, and none validates.

    Raises:
        InputError: a test case or the fold does not exist, nobody is left to train, or as in `find_folds`.
    """
    test = tuple(sorted(set(test_cases)))
    if fold == "all":
        tested = related_to_test(dataset, test_cases)
        train = sorted(case.id for case in dataset.cases if case.id not in tested)
        if not train:
            raise InputError(
                f"{dataset.root} has 0 groups of cases outside the test, too few for a training: add cases"
            )
        return Split(tuple(train), (), test)
    parts = find_folds(dataset, folds, seed, test_cases, may_leak=may_leak)
    if not 0 <= fold < len(parts):
        where = "" if isinstance(folds, int) else f" in {folds}"
        raise InputError(f"dataset.fold is {fold} of {len(parts)} folds{where}: they are numbered from 0")
    train = sorted(case for index, part in enumerate(parts) if index != fold for case in part)
    return Split(tuple(train), tuple(_in_turns(_grouped(parts[fold], dataset), seed)), test)


def find_folds(
    dataset: Dataset,
    folds: int | str | Path,
    seed: int = 0,
    test_cases: Sequence[str] = (),
    *,
    may_leak: bool = False,
) -> Folds:
    """The folds of all cases that are not kept for the test.

    Args:
        folds: how many are dealt (`deal_folds`), or the file that holds them (`read_folds`), which cases that it does
            not name join (`join_folds`).
        may_leak: whether the file may have groups in several folds.

    Raises:
        InputError: a test case does not exist, or as in those functions.
    """
    tested = related_to_test(dataset, test_cases)
    if not isinstance(folds, int):
        return join_folds(read_folds(folds), dataset, tested, source=folds, may_leak=may_leak)
    if folds < 2:
        raise InputError(f"dataset.folds is {folds}, but at least 2 folds are needed")
    return deal_folds(dataset, folds, seed, tested)


def related_to_test(dataset: Dataset, test_cases: Sequence[str]) -> set[str]:
    """Ids of the labelled cases that may not train: `test_cases`, and all that share a group with a test case.

    Raises:
        InputError: a test case does not exist.
    """
    ids = {case.id for case in dataset.cases}
    for name in test_cases:
        if name not in ids:
            near = get_close_matches(name, sorted(ids), n=1, cutoff=0)
            raise InputError(f"dataset.test_cases: {dataset.root} has no case {name!r}; did you mean {near[0]!r}?")
    groups = {case.group for case in dataset.test if case.group is not None}
    tested = set(test_cases) | {case.id for case in dataset.cases if case.group in groups}
    return {case for members in groups_of(dataset) if tested & set(members) for case in members}


def _grouped(cases: Sequence[str], dataset: Dataset) -> list[list[str]]:
    """The cases group by group, in the order in which they first occur."""
    group_of = {case: index for index, members in enumerate(groups_of(dataset)) for case in members}
    groups: dict[int, list[str]] = {}
    for case in cases:
        groups.setdefault(group_of[case], []).append(case)
    return list(groups.values())


def _in_turns(groups: Sequence[Sequence[str]], seed: int) -> list[str]:
    """All cases: one of each group, then a second of each group that has one, and so on, drawn by `seed`."""
    draw = random.Random(seed)
    shuffled = [draw.sample(members, len(members)) for members in draw.sample(groups, len(groups))]
    return [case for turn in zip_longest(*shuffled) for case in turn if case is not None]
