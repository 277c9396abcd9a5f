"""Who trains, who validates, who is kept for the test."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from dlka_med.data.cases import Dataset
from dlka_med.errors import InputError


@dataclass(frozen=True)
class Split:
    """Case ids of each part, sorted."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()


def split_cases(
    dataset: Dataset, folds: int = 5, fold: int = 0, seed: int = 0, test_cases: Sequence[str] = ()
) -> Split:
    """One fold of a cross-validation in which no group sits on two sides.

    Groups are shuffled by `seed` and dealt, the largest first, to the fold with the fewest cases. The whole
    group of a test case, named or in `dataset.test`, is kept out of training and validation; `test` holds the
    named cases only.

    Raises:
        InputError: a test case does not exist, or there are fewer groups than folds.
    """
    if folds < 2 or not 0 <= fold < folds:
        raise InputError(f"fold is {fold} of {folds}: at least 2 folds are needed, numbered from 0")
    ids = {case.id for case in dataset.cases}
    for name in test_cases:
        if name not in ids:
            near = get_close_matches(name, sorted(ids), n=1, cutoff=0)
            raise InputError(f"dataset.test_cases: {dataset.root} has no case {name!r}; did you mean {near[0]!r}?")
    groups: dict[tuple[bool, str], list[str]] = {}
    for case in dataset.cases:
        # A lone case must not meet a group that happens to carry its id.
        key = (True, case.group) if case.group is not None else (False, case.id)
        groups.setdefault(key, []).append(case.id)
    tested = {(True, case.group) for case in dataset.test if case.group is not None}
    free = [
        members for key, members in sorted(groups.items()) if key not in tested and not set(members) & set(test_cases)
    ]
    if len(free) < folds:
        raise InputError(
            f"{dataset.root} has {len(free)} groups of cases outside the test, too few for {folds} folds: "
            "set dataset.folds to a smaller number or add cases"
        )
    random.Random(seed).shuffle(free)
    parts: list[list[str]] = [[] for _ in range(folds)]
    for members in sorted(free, key=len, reverse=True):
        min(parts, key=len).extend(members)
    train = [case for index, part in enumerate(parts) if index != fold for case in part]
    return Split(tuple(sorted(train)), tuple(sorted(parts[fold])), tuple(sorted(set(test_cases))))
