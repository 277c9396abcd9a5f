"""The same cases predicted by several: paired differences, what may be claimed, ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from dlka_med.evaluation.measures import HEADLINES, MEASURES
from dlka_med.evaluation.score import LabelScore
from dlka_med.evaluation.summary import Comparison, Evaluation, table_of
from dlka_med.statistics import Difference, Placed, claim, difference, holm, ranks, seeded_difference

ONE_SEED = "; of one seed no spread of seeds is known: other seeds may say otherwise"

Scores = Mapping[str, Mapping[str, LabelScore]]
Seeds = Mapping[str, Sequence[Sequence[LabelScore]]]
"""Rows of each seed, by the names of what was trained with them."""


def compared(
    result: Evaluation,
    scores: Mapping[str, Sequence[LabelScore]],
    groups: Mapping[str, str],
    seeds: Seeds = MappingProxyType({}),
) -> Evaluation:
    """The evaluation with a comparison for each of the others, over the cases that both predicted.

    p is corrected (Holm 1979) over all claims: those of each headline against each of the others. Who rightly finds
    nothing where another finds something counts as perfect there, so that no false positive is lost.

    Args:
        scores: of those evaluated, then of others of the same references and labels, by the names to call them.
        groups: patient of each case.
        seeds: where `scores` are averages over seeds, what they are averages of; claims hold their spread then.
    """
    labels = list(result.labels)
    runs = {name: _by_case(rows) for name, rows in scores.items()}
    ours, *others = runs
    comparisons = []
    for other in others:
        found = _compare(runs[ours], other, runs[other], labels, groups)
        if seeds and min(len(seeds[ours]), len(seeds[other])) > 1:
            found = replace(found, with_seeds=_with_seeds(seeds[ours], seeds[other], labels, groups))
        comparisons.append(found)
    means = {
        (one.other, name): one.with_seeds[name] if one.with_seeds else one.differences[name]["mean"]
        for one in comparisons
        for name in HEADLINES
    }
    tested = {key: apart.p for key, apart in means.items() if apart is not None and apart.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    claims: dict[str, list[str]] = {other: [] for other in others}
    for one in comparisons:
        for name in HEADLINES:
            if (apart := means[one.other, name]) is None:
                continue
            measure = MEASURES[name]
            said = claim(
                ours,
                one.other,
                apart,
                higher_is_better=bool(measure.higher_is_better),
                p=corrected.get((one.other, name)),
                digits=measure.digits,
                seeds=(len(seeds[ours]), len(seeds[one.other])) if one.with_seeds else None,
            )
            alone = ONE_SEED if seeds and not one.with_seeds else ""
            claims[one.other].append(f"{measure.title}: {said}{alone}")
    comparisons = [replace(one, claims=tuple(claims[one.other])) for one in comparisons]
    return replace(result, comparisons=tuple(comparisons), ranks=_ranks(runs, labels, groups, seeds))


def paired(
    runs: Sequence[Sequence[LabelScore]], cases: Sequence[str], measure: str, labels: Sequence[str]
) -> NDArray[np.float64]:
    """(runs, cases, labels) of one measure as comparisons take it, see `compared`."""
    return _tables([_by_case(rows) for rows in runs], cases, measure, labels)


def _by_case(rows: Sequence[LabelScore]) -> Scores:
    found: dict[str, dict[str, LabelScore]] = {}
    for row in rows:
        found.setdefault(row.case, {})[row.label] = row
    return found


def _compare(ours: Scores, other: str, theirs: Scores, labels: Sequence[str], groups: Mapping[str, str]) -> Comparison:
    cases = sorted(ours.keys() & theirs.keys())
    patients = [groups[case] for case in cases]
    differences: dict[str, dict[str, Difference | None]] = {}
    for name in HEADLINES:
        first, second = _tables((ours, theirs), cases, name, labels)
        differences[name] = {
            label: difference(first[:, column], second[:, column], patients) for column, label in enumerate(labels)
        } | {"mean": difference(first, second, patients)}
    only = tuple(sorted(ours.keys() - theirs.keys())), tuple(sorted(theirs.keys() - ours.keys()))
    return Comparison(other, len(cases), *only, differences)


def _with_seeds(
    ours: Sequence[Sequence[LabelScore]],
    theirs: Sequence[Sequence[LabelScore]],
    labels: Sequence[str],
    groups: Mapping[str, str],
) -> dict[str, Difference | None]:
    """The mean difference of each headline, seeds and patients drawn anew."""
    sides = [[_by_case(rows) for rows in side] for side in (ours, theirs)]
    cases = sorted(set.intersection(*(set(scores) for side in sides for scores in side)))
    patients = [groups[case] for case in cases]
    found = {}
    for name in HEADLINES:
        tables = _tables([*chain(*sides)], cases, name, labels)
        found[name] = seeded_difference(tables[: len(ours)], tables[len(ours) :], patients)
    return found


def _ranks(
    runs: Mapping[str, Scores], labels: Sequence[str], groups: Mapping[str, str], seeds: Seeds
) -> dict[str, dict[str, Placed]]:
    held = [[_by_case(rows) for rows in seeds[name]] for name in runs] if seeds else []
    cases = sorted(set.intersection(*(set(scores) for scores in (*runs.values(), *chain(*held)))))
    placed = {}
    for name in HEADLINES if len(runs) > 2 and cases else ():
        whole = _tables([*runs.values(), *chain(*held)], cases, name, labels)
        tables, seeded = whole[: len(runs)], iter(whole[len(runs) :])
        better = bool(MEASURES[name].higher_is_better)
        trained = [[next(seeded) for _ in side] for side in held]
        spread = trained if held and min(map(len, held)) > 1 else None
        if found := ranks(tables, [groups[case] for case in cases], better, spread):
            placed[name] = dict(zip(runs, found, strict=True))
    return placed


def _tables(runs: Sequence[Scores], cases: Sequence[str], measure: str, labels: Sequence[str]) -> NDArray[np.float64]:
    """(runs, cases, labels) of one measure; NaN where none of them has a value, as neither they nor the reference
    have the label."""
    rows = [[scores[case][label] for case in cases for label in labels] for scores in runs]
    tables = np.stack([table_of(of_run, measure, len(labels)) for of_run in rows])
    invented = np.array([[row.status == "false_positive" for row in of_run] for of_run in rows]).reshape(tables.shape)
    return np.where(np.isnan(tables) & invented.any(axis=0), MEASURES[measure].best, tables)
