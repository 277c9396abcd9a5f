"""Which cases validate together: dealt once, kept in a file, and joined by cases that come later."""

import json
import logging
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlka_med.data.cases import Dataset
from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.paths import shown
from dlka_med.text_files import read_text

EXPECTED = (
    "expected a list of folds, each a list of the case ids that validate in it, or nnU-Net's splits_final.json, "
    'a list of {"train": [...], "val": [...]}'
)
SHOWN = 5

Folds = tuple[tuple[str, ...], ...]
"""Ids of the cases that validate in each fold; all others train there."""

log = logging.getLogger("dlka_med")


def deal_folds(dataset: Dataset, number: int, seed: int = 0, tested: Collection[str] = ()) -> Folds:
    """Folds of about equal size in which every group is whole.

    Groups are shuffled by `seed` and dealt, the largest first, to the fold with the fewest cases.

    Args:
        number: of folds, 2 or more.
        tested: ids of cases to leave out, whole groups of them.

    Raises:
        InputError: there are fewer groups than folds.
    """
    free = [members for members in groups_of(dataset) if not set(tested) & set(members)]
    if len(free) < number:
        raise InputError(
            f"{dataset.root} has {len(free)} groups of cases outside the test, too few for {number} folds: "
            f"set dataset.folds to a smaller number, {'dataset.fold to all, ' if free else ''}or add cases"
        )
    random.Random(seed).shuffle(free)
    parts: list[list[str]] = [[] for _ in range(number)]
    for members in sorted(free, key=len, reverse=True):
        min(parts, key=len).extend(members)
    return tuple(map(tuple, parts))


def join_folds(
    folds: Sequence[Sequence[str]],
    dataset: Dataset,
    tested: Collection[str] = (),
    *,
    source: str | Path = "dataset.folds",
    may_leak: bool = False,
) -> Folds:
    """The folds with the cases of the dataset that they do not name; all others stay where they are.

    A case joins the fold of its group, else the fold with the fewest cases.

    Args:
        folds: as `read_folds` gives them.
        tested: ids of cases to leave out, whole groups of them.
        source: where the folds come from, for messages.
        may_leak: whether groups that lie in several folds are told in the log instead of refused.

    Raises:
        InputError: a case does not exist, a fold has no case outside the test, or a group lies in several folds.
    """
    ids = {case.id for case in dataset.cases}
    if strangers := [case for part in folds for case in part if case not in ids]:
        raise InputError(
            f"{source} names {len(strangers)} cases that {dataset.root} lacks: {_some(strangers)}; take them out of "
            "the folds, or set dataset.root to the folder that they were made for"
        )
    parts = [[case for case in part if case not in tested] for part in folds]
    fold_of = {case: index for index, part in enumerate(parts) for case in part}
    for index, part in enumerate(parts):
        if not part:
            raise InputError(
                f"{source}: fold {index} has no case{' outside the test' if folds[index] else ''}, so nothing would "
                "validate in it: give it cases, or take the fold out"
            )
    groups = groups_of(dataset)
    _tell_leaks(
        [members for members in groups if len({fold_of[c] for c in members if c in fold_of}) > 1], source, may_leak
    )
    joined = {}
    for members in groups:
        new = [case for case in members if case not in fold_of and case not in tested]
        if not new:
            continue
        homes = Counter(fold_of[case] for case in members if case in fold_of)
        index = homes.most_common(1)[0][0] if homes else min(range(len(parts)), key=lambda i: len(parts[i]))
        parts[index] += new
        joined |= dict.fromkeys(new, index)
    if joined:
        places = [f"{case} (fold {index})" for case, index in joined.items()]
        log.info("%s does not name all cases; so many join its folds: %d, %s", source, len(joined), _some(places))
    return tuple(map(tuple, parts))


def read_folds(path: str | Path) -> Folds:
    """The folds of a file that `write_folds` or nnU-Net wrote.

    Raises:
        InputError: it cannot be read, holds fewer than two folds, names a case twice, or a fold of nnU-Net does not
            train on all cases that validate in the others.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown(path)} cannot be read as JSON ({error}): {EXPECTED}") from error
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: {EXPECTED}; it holds {shown(repr(content))}")
    of_nnunet = all(isinstance(part, dict) for part in content)
    folds = tuple(_ids(path, f"fold {i}", part.get("val") if of_nnunet else part) for i, part in enumerate(content))
    count = Counter(case for part in folds for case in part)
    if twice := [case for case, times in count.items() if times > 1]:
        raise InputError(f"{path}: {twice[0]!r} stands in the folds {count[twice[0]]} times: a case validates once")
    if of_nnunet:
        _check_training(path, content, folds)
    if len(folds) < 2:
        raise InputError(
            f"{path} holds one fold, but two or more are needed: for a fixed split, give two lists, the cases that "
            "validate and all others, and set dataset.fold to 0"
        )
    return folds


def write_folds(path: str | Path, folds: Sequence[Sequence[str]]) -> None:
    """Write the folds as JSON, one line each, for `read_folds` and `dataset.folds`."""
    lines = ",\n".join(json.dumps(list(part), ensure_ascii=False) for part in folds)
    with whole_file(path) as file:
        file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def groups_of(dataset: Dataset) -> list[list[str]]:
    """Sorted case ids of each group, in a fixed order; a case without a group is one of its own."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for case in dataset.cases:
        # A lone case must not meet a group that happens to carry its id.
        key = (True, case.group) if case.group is not None else (False, case.id)
        groups.setdefault(key, []).append(case.id)
    return [sorted(members) for _, members in sorted(groups.items())]


def _ids(path: str | Path, where: str, part: Any) -> tuple[str, ...]:
    if not isinstance(part, list) or not all(isinstance(case, str) for case in part):
        raise InputError(f"{path}, {where}: {EXPECTED}; it holds {shown(repr(part))}")
    return tuple(part)


def _check_training(path: str | Path, content: Sequence[Mapping[str, Any]], folds: Folds) -> None:
    """Folds say who trains where: all that validate elsewhere. What nnU-Net's file says has to be that."""
    validating = {case for part in folds for case in part}
    for index, (part, validation) in enumerate(zip(content, folds, strict=True)):
        train = set(_ids(path, f"fold {index}, train", part.get("train")))
        if both := sorted(train & set(validation)):
            raise InputError(
                f"{path}: fold {index} trains on cases that validate in it: {_some(both)}; choose one side"
            )
        if never := sorted(train - validating):
            raise InputError(
                f"{path}: fold {index} trains on cases that validate in no fold: {_some(never)}; for a fixed split, "
                "give two lists, the cases that validate and all others, and set dataset.fold to 0"
            )
        if idle := sorted(validating - set(validation) - train):
            raise InputError(
                f"{path}: fold {index} neither trains on nor validates {_some(idle)}: in a fold all cases train that "
                "do not validate; add them to its train, or name them in dataset.test_cases"
            )


def _tell_leaks(torn: Sequence[Sequence[str]], source: str | Path, may_leak: bool) -> None:
    if not torn:
        return
    told = f"{source}: {len(torn)} groups lie in several folds, such as that of {_some(torn[0])}"
    if not may_leak:
        raise InputError(
            f"{told}: what validates would have been seen in training, and scores would be too good; keep each group "
            "in one fold, or set dataset.folds_may_leak to true"
        )
    log.warning("%s (dataset.folds_may_leak): scores are better than on new groups", told)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
