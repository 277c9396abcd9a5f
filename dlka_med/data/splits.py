"""Who trains, who validates, who is kept for the test."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import zip_longest
from typing import Literal

from dlka_med.data.cases import Dataset
from dlka_med.errors import InputError


@dataclass(frozen=True)
class Split:
    """Case ids of each part: train and test sorted, validation in an order whose beginning is a fair sample."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()


def split_cases(
    dataset: Dataset, folds: int = 5, fold: int | Literal["all"] = 0, seed: int = 0, test_cases: Sequence[str] = ()
) -> Split:
    """One fold of a cross-validation in which no group sits on two sides.

    Groups are shuffled by `seed` and dealt, the largest first, to the fold with the fewest cases. The whole
    group of a test case, named or in `dataset.test`, is kept out of training and validation; `test` holds the
    named cases only. In the order of `validation` the groups take turns, drawn by `seed`.

    Args:
        fold: the one that validates; all: every case outside the test trains, and none validates.

    Raises:
        InputError: a test case does not exist, or there are fewer groups than needed.
    """
    if fold != "all" and (folds < 2 or not 0 <= fold < folds):
        raise InputError(f"fold is {fold} of {folds}: at least 2 folds are needed, numbered from 0")
    tested = related_to_test(dataset, test_cases)
    free = [members for members in _groups(dataset) if not tested & set(members)]
    needed = 1 if fold == "all" else folds
    if len(free) < needed:
        raise InputError(
            f"{dataset.root} has {len(free)} groups of cases outside the test, too few for "
            + (f"{folds} folds: set dataset.folds to a smaller number, " if fold != "all" else "a training: ")
            + ("dataset.fold to all, or add cases" if free and fold != "all" else "add cases")
        )
    random.Random(seed).shuffle(free)
    parts: list[list[list[str]]] = [[] for _ in range(folds)]
    for members in sorted(free, key=len, reverse=True):
        min(parts, key=lambda part: sum(map(len, part))).append(members)
    train = [case for index, part in enumerate(parts) if index != fold for members in part for case in members]
    validation = [] if fold == "all" else _in_turns(parts[fold], seed)
    return Split(tuple(sorted(train)), tuple(validation), tuple(sorted(set(test_cases))))


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
    return {case for members in _groups(dataset) if tested & set(members) for case in members}


def _groups(dataset: Dataset) -> list[list[str]]:
    """Sorted ids of each group, in a fixed order."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for case in dataset.cases:
        # A lone case must not meet a group that happens to carry its id.
        key = (True, case.group) if case.group is not None else (False, case.id)
        groups.setdefault(key, []).append(case.id)
    return [sorted(members) for _, members in sorted(groups.items())]


def _in_turns(groups: Sequence[Sequence[str]], seed: int) -> list[str]:
    """All cases: one of each group, then a second of each group that has one, and so on, drawn by `seed`."""
    draw = random.Random(seed)
    shuffled = [draw.sample(members, len(members)) for members in draw.sample(groups, len(groups))]
    return [case for turn in zip_longest(*shuffled) for case in turn if case is not None]
