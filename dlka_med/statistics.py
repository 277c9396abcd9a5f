"""What figures of some patients say about all patients: intervals, paired comparisons, ranks.

Patients, not cases, are drawn: cases of one group (of one patient) come and go together, and a mean is over cases, so
that it is a ratio of two sums over the patients drawn.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
LEAST_PATIENTS = 10
RESAMPLES = 5000
AT_ONCE = 500  # resamples
PARTS = 5
EXACT = 12  # patients, whose 4096 flips are fewer than the resamples
TOO_FEW = f"no interval below {LEAST_PATIENTS} patients"
RULE = (
    f"Intervals hold the mean of all such patients with {LEVEL:.0%}: bootstrap-t, patients (groups of cases) drawn "
    f"{RESAMPLES} times with replacement, none below {LEAST_PATIENTS} patients. They know nothing of failures too rare "
    "to be among these patients."
)
SEEDS_RULE = (
    "with_seeds holds differences of networks however they are seeded: the variance over seeds is added to that over "
    "patients, and Student's distribution has Satterthwaite's degrees of freedom."
)

Interval = tuple[float, float]
Placed = tuple[float, Interval | None]
Values = NDArray[np.float64]
P = TypeVar("P", str, tuple[bool, str])


@dataclass(frozen=True)
class Difference:
    """Of one run from another over the cases of both, in the sense of first minus second.

    Args:
        mean: over cases; of several labels, the mean of their means.
        interval: of the mean, at `LEVEL`; None below `LEAST_PATIENTS`.
        p: two-sided; Wilcoxon's signed-rank test over the patients' mean differences, or Student's of
            `seeded_difference`.
        doubt: the probability that the claim "the one with the better mean is better" is false.
        cases, patients: that have a value in both.
    """

    mean: float
    interval: Interval | None
    p: float | None
    doubt: float | None
    cases: int
    patients: int


def interval(values: Values, groups: Sequence[str], within: Interval = (-math.inf, math.inf)) -> Interval | None:
    """Where the mean lies for patients of this kind, at `LEVEL`.

    Bootstrap-t (Efron & Tibshirani 1993, ch. 12.5) of a ratio of sums, with its linearised standard error. Where
    resamples without any spread make it infinite, Student's interval with the same standard error.

    Args:
        values: (cases,), or (cases, labels) whose columns are averaged and then the means; NaN where a case has none.
        groups: of each case.
        within: what a mean can be at all.

    Returns:
        None below `LEAST_PATIENTS` groups with a value, in any column that has values.

    Raises:
        ValueError: another number of groups than of cases.
    """
    sums, counts = _by_group(values, groups)
    if not len(sums) or (counts > 0).sum(axis=0).min() < LEAST_PATIENTS:
        return None
    mean, error = _mean_and_error(sums, counts, np.ones((1, len(sums))))
    if not error[0] > _noise(values):
        return float(mean[0]), float(mean[0])
    means, errors = np.hstack([_mean_and_error(sums, counts, drawn) for drawn in _draws(len(sums))])
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = (means - mean) / errors
    outer = (1 + LEVEL) / 2
    if (errors <= _noise(values)).any() or not np.isfinite(scores).all():
        low, high = np.array([-1, 1]) * stats.t.ppf(outer, len(sums) - 1)
    else:
        low, high = -np.quantile(scores, [outer, 1 - outer])
    low, high = np.clip(mean[0] + np.array([low, high]) * error[0], *within)
    return float(low), float(high)


def difference(ours: Values, theirs: Values, groups: Sequence[str]) -> Difference | None:
    """Compare two runs on the cases, and labels, that have a value in both; None if there is none.

    `doubt` is the posterior probability of a mean difference of the other sign, by Student's distribution under a flat
    prior (Christodoulou et al. 2025 call it the probability of a false claim).

    Args:
        ours, theirs: as in `interval`, row by row of the same case.

    Raises:
        ValueError: shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"values of two runs need one shape, got {ours.shape} and {theirs.shape}")
    apart = ours - theirs
    sums, counts = _by_group(apart, groups)
    if not len(sums):
        return None
    mean, error = _mean_and_error(sums, counts, np.ones((1, len(sums))))
    with np.errstate(invalid="ignore"):
        of_patients = np.nanmean(sums / np.where(counts > 0, counts, np.nan), axis=1)
    p, doubt = None, None
    if len(sums) >= LEAST_PATIENTS:
        tiny = np.abs(of_patients) <= _noise(apart)
        p = 1.0 if tiny.all() else float(stats.wilcoxon(np.where(tiny, 0, of_patients)).pvalue)
        if error[0] > _noise(apart):
            doubt = float(stats.t.cdf(-abs(mean[0]) / error[0], len(sums) - 1))
        else:
            doubt = 0.5 if abs(mean[0]) <= _noise(apart) else 0.0
    return Difference(float(mean[0]), interval(apart, groups), p, doubt, _cases(apart), len(sums))


def seeded_difference(ours: Values, theirs: Values, groups: Sequence[str]) -> Difference | None:
    """Compare two networks however they are seeded, by some trainings of each; None if no case has a value in both.

    Patients and seeds are both a sample: what `difference` finds for averages over seeds does not know that other seeds
    would have had other means. Here the variance of the mean difference is that over patients plus, of both networks,
    that over seeds, less the part of the latter which comes from the patients drawn and stands in the former already.
    Interval, p and doubt are those of Student's distribution with Satterthwaite's degrees of freedom (Satterthwaite
    1946). Why seeds count: Bouthillier et al., Accounting for Variance in Machine Learning Benchmarks, 2021.

    Args:
        ours, theirs: (seeds, cases) or (seeds, cases, labels), two seeds or more in each; as in `difference` else.

    Raises:
        ValueError: there is a single seed, or cases or labels differ.
    """
    if min(len(ours), len(theirs)) < 2 or ours.shape[1:] != theirs.shape[1:]:
        raise ValueError(f"two seeds or more of the same cases are needed, got {ours.shape} and {theirs.shape}")
    averages = [_average(seeds) for seeds in (ours, theirs)]
    apart = averages[0] - averages[1]
    sums, counts = _by_group(apart, groups)
    patients = len(sums)
    if not patients:
        return None
    mean, error = (float(found[0]) for found in _mean_and_error(sums, counts, np.ones((1, patients))))
    if patients < LEAST_PATIENTS or (counts > 0).sum(axis=0).min() < LEAST_PATIENTS:
        return Difference(mean, None, None, None, _cases(apart), patients)
    parts, counted_twice = [(error**2, patients - 1)], 0.0
    known = np.where(np.isfinite(apart), 0.0, np.nan)
    for seeds, average in zip((ours, theirs), averages, strict=True):
        # A seed without a value where others have one counts as their average.
        variance, of_patients = _variance_over_seeds(np.nan_to_num(seeds - average) + known, groups)
        parts.append((variance, len(seeds) - 1))
        counted_twice += of_patients
    whole = error**2 + max(sum(variance for variance, _ in parts[1:]) - counted_twice, 0.0)
    noise = _noise(np.stack(averages))
    if math.sqrt(whole) <= noise:
        doubt, reach = 0.5 if abs(mean) <= noise else 0.0, 0.0
    else:
        freedom = whole**2 / sum(variance**2 / free for variance, free in parts)
        doubt = float(stats.t.cdf(-abs(mean) / math.sqrt(whole), freedom))
        reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(whole)
    return Difference(mean, (mean - reach, mean + reach), 2 * doubt, doubt, _cases(apart), patients)


def claim(
    ours: str,
    theirs: str,
    found: Difference,
    *,
    higher_is_better: bool,
    p: float | None,
    digits: int,
    seeds: tuple[int, int] | None = None,
) -> str:
    """What may be said of two runs, in one sentence.

    Args:
        ours, theirs: their names, first minus second.
        p: that of `found`, corrected if it is one of several.
        digits: behind the point.
        seeds: how many of each `found` is of, if it holds their spread.
    """
    apart = f"{ours} minus {theirs} is {found.mean:+.{digits}f}"
    if found.interval is None or p is None or found.doubt is None:
        few = f"{found.patients} patients are" if found.patients > 1 else "one patient is"
        return f"{apart}; {few} too few to claim anything (at least {LEAST_PATIENTS} with each label)"
    low, high = found.interval
    figures = f"{LEVEL:.0%} interval {low:+.{digits}f} to {high:+.{digits}f}, {found.patients} patients, "
    figures += f"p {p:.2g}" if seeds is None else f"{seeds[0]} and {seeds[1]} seeds, p {p:.2g}"
    # Most patients may gain a little where the mean loses by a few: both have to say the same.
    if p >= 1 - LEVEL or low <= 0 <= high or found.doubt >= (1 - LEVEL) / 2:
        return f"{apart} ({figures}): neither may be called better"
    first, second = (ours, theirs) if (found.mean > 0) == higher_is_better else (theirs, ours)
    doubt = f"{found.doubt:.1%}" if found.doubt >= 1e-3 else "below 0.1%"
    return f"{apart} ({figures}): {first} is better than {second}; the probability that this is false is {doubt}"


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number, in their order (Holm 1979)."""
    order = np.argsort(p)
    steps = np.maximum.accumulate([p[index] * (len(p) - place) for place, index in enumerate(order)])
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1)
    return corrected.tolist()


def ranks(
    values: Sequence[Values],
    groups: Sequence[str],
    higher_is_better: bool,
    seeds: Sequence[Sequence[Values]] | None = None,
) -> list[Placed]:
    """Rank of each run by its mean, 1 for the best, and between which ranks it lies in 95 % of resamples of patients.

    Args:
        values: of each run, as in `interval`; only cases with a value in all runs count.
        seeds: where `values` are averages over seeds, two or more, what they are averages of: the means are drawn with
            the error that other seeds would have brought (of Student's t, independent of the patients) as well.

    Returns:
        Nothing if there is no such case; no span below `LEAST_PATIENTS`.
    """
    known = np.isfinite(np.stack(values)).all(axis=0)
    tables = [_by_group(np.where(known, run, np.nan), groups) for run in values]
    patients = len(tables[0][0])
    if not patients:
        return []
    drawn = [np.ones((1, patients)), *_draws(patients)]
    means = np.stack([np.hstack([_mean_and_error(*table, some)[0] for some in drawn]) for table in tables], axis=1)
    if seeds is not None:
        draw = np.random.default_rng(0)
        for run, trained in enumerate(seeds):
            variance, _ = _variance_over_seeds(np.stack([np.where(known, seed, np.nan) for seed in trained]), groups)
            means[1:, run] += math.sqrt(variance) * draw.standard_t(len(trained) - 1, len(means) - 1)
    placed = stats.rankdata(-means if higher_is_better else means, axis=1)
    if (tables[0][1] > 0).sum(axis=0).min() < LEAST_PATIENTS:
        return [(float(rank), None) for rank in placed[0]]
    low, high = np.quantile(placed[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [(float(placed[0, run]), (float(low[run]), float(high[run]))) for run in range(len(values))]


def p_of_best(gains: Values, chosen: int, groups: Sequence[str]) -> float:
    """How likely the gain of one of several options would be the best of them by chance alone; one-sided.

    The signs of all gains of a patient flip together, so that the options stay as alike as they are; what is compared
    is the sum over patients by its size under flips, and the largest of the options counts (Westfall & Young 1993,
    single-step maxT). All flips of at most `EXACT` patients are tried, else `RESAMPLES` at random.

    Args:
        gains: (cases, options).
        chosen: the option asked for.
        groups: of each case.

    Raises:
        ValueError: another number of groups than of cases.
    """
    sums, _ = _by_group(gains, groups)
    sizes = np.sqrt((sums**2).sum(axis=0))
    scaled = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)
    patients = len(sums)
    if patients <= EXACT:
        signs = 1 - 2 * (np.arange(2**patients)[:, None] >> np.arange(patients) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], (RESAMPLES, patients))
        signs[0] = 1
    return float(((signs @ scaled).max(axis=1) >= scaled[:, chosen].sum() - 1e-9).mean())


def deal(patients: Iterable[P], parts: int = PARTS, seed: int = 0) -> dict[P, int]:
    """The part of each patient, of so many or one each, for what is chosen on some and measured on others."""
    shuffled = sorted(set(patients))
    random.Random(seed).shuffle(shuffled)
    return {patient: place % min(parts, len(shuffled)) for place, patient in enumerate(shuffled)}


def _by_group(values: Values, groups: Sequence[str]) -> tuple[Values, Values]:
    """Sums and counts (patients, labels) of what is no NaN; patients and labels without a value are left out."""
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} cases need as many groups, got {len(groups)}")
    table = values.reshape(len(values), -1)
    _, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    known = np.isfinite(table)
    sums, counts = np.zeros((2, member.max(initial=-1) + 1, table.shape[1]))
    np.add.at(sums, member, np.where(known, table, 0))
    np.add.at(counts, member, known)
    kept = np.ix_(counts.any(axis=1), counts.any(axis=0))
    return sums[kept], counts[kept]


def _average(seeds: Values) -> Values:
    """Mean over the first axis of what is no NaN; NaN where nothing is."""
    known = np.isfinite(seeds)
    count = known.sum(axis=0)
    return np.divide(np.where(known, seeds, 0).sum(axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)


def _variance_over_seeds(deviations: Values, groups: Sequence[str]) -> tuple[float, float]:
    """Of the mean over seeds: by how much their means differ, and which part of it other patients would have changed.

    Args:
        deviations: (seeds, cases) or (seeds, cases, labels) from the average over seeds.
    """
    tables = [_by_group(seed, groups) for seed in deviations]
    found = [_mean_and_error(sums, counts, np.ones((1, len(sums)))) for sums, counts in tables]
    means, errors = np.array(found)[..., 0].T
    scale = len(means) * (len(means) - 1)
    return float(((means - means.mean()) ** 2).sum() / scale), float((errors**2).sum() / scale)


def _cases(apart: Values) -> int:
    """How many have a value."""
    return int(np.isfinite(apart.reshape(len(apart), -1)).any(axis=1).sum())


def _draws(patients: int) -> Iterator[Values]:
    """How often each resample (one per row) has drawn each patient; the same at every call."""
    drawn = _all_draws(patients)
    for start in range(0, RESAMPLES, AT_ONCE):
        yield drawn[start : start + AT_ONCE].astype(np.float64)


@lru_cache(maxsize=8)
def _all_draws(patients: int) -> NDArray[np.uint16]:
    return np.random.default_rng(0).multinomial(patients, np.full(patients, 1 / patients), RESAMPLES).astype(np.uint16)


def _mean_and_error(sums: Values, counts: Values, drawn: Values) -> tuple[Values, Values]:
    """Mean over labels of the ratio of sums, and its linearised standard error, for each row of `drawn`."""
    patients, totals = len(sums), drawn @ counts
    share = np.divide(1, totals, out=np.zeros_like(totals), where=totals > 0)
    share /= (totals > 0).sum(axis=1, keepdims=True)
    ratios = np.divide(drawn @ sums, totals, out=np.zeros_like(totals), where=totals > 0)
    means = (ratios * (totals > 0)).sum(axis=1) / (totals > 0).sum(axis=1)
    residuals = sums @ share.T - counts @ (ratios * share).T
    squares = (drawn * residuals.T**2).sum(axis=1)
    return means, np.sqrt(squares * patients / max(patients - 1, 1))


def _noise(values: Values) -> float:
    """Below this a spread is rounding."""
    largest = np.nanmax(np.abs(values), initial=0)
    return 1e-9 * float(largest) if math.isfinite(largest) else 0.0
