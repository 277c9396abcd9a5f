"""Rows of cases and labels become means, with what they say about all patients."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlka_med.evaluation.measures import HEADLINES, Measure, Protocol, Unit
from dlka_med.evaluation.score import LabelScore, absent
from dlka_med.metrics import CONVENTIONS, EMPTY_MASK_RULE
from dlka_med.statistics import RULE as INTERVAL_RULE
from dlka_med.statistics import Difference, Interval, Placed, interval

RULE = (
    f"{EMPTY_MASK_RULE} The mean of a label is over its cases; the overall mean is that of the labels' "
    "means, background left out. Where runs or seeds are compared, one that rightly finds nothing where another finds "
    "something counts as perfect there: 1 in every ratio, 0 in every distance, so that no false positive is lost. "
    f"{INTERVAL_RULE}"
)


@dataclass(frozen=True)
class Statistic:
    """One figure over all cases; None where nothing was to be averaged.

    Args:
        interval: of the mean for all such patients, as `dlka_med.statistics` has it.
        std, median: over cases; of a mean over labels there are none.
    """

    mean: float | None = None
    interval: Interval | None = None
    std: float | None = None
    median: float | None = None


@dataclass(frozen=True)
class LabelSummary:
    """One label over all cases. `cases` counts those in the mean, misses and false positives among them.

    `figures` is by names of `MEASURES`, and so is what `summary["dice"]` gives.
    """

    figures: Mapping[str, Statistic]
    cases: int
    patients: int
    missed: int
    false_positive: int
    both_empty: int

    def __getitem__(self, measure: str) -> Statistic:
        return self.figures[measure]


@dataclass(frozen=True)
class Conventional:
    """Means by the rule of a published table, never with intervals: labels, and the mean of their means."""

    name: str
    labels: Mapping[str, Mapping[str, float | None]]
    mean: Mapping[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """Of the predictions with others of the same cases.

    Args:
        other: how the others are called.
        cases: that both predicted; `only_ours` and `only_theirs` did not count.
        differences: ours minus theirs, by measure and label, "mean" for that of all labels; None where there is none.
        with_seeds: the mean difference of each headline, seeds and patients drawn anew; empty where seeds are unknown.
        claims: what may be said of each headline, p corrected over all claims of this evaluation.
        trained: cases that trained the run which predicted the others, so that they look better than they are.
    """

    other: str
    cases: int
    only_ours: tuple[str, ...]
    only_theirs: tuple[str, ...]
    differences: Mapping[str, Mapping[str, Difference | None]]
    with_seeds: Mapping[str, Difference | None] = field(default_factory=dict)
    claims: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; `scores` has one entry per case and label, sorted by case and label value.

    What one side alone has, cases and labels, is left out of all figures and named here. Distances are in `unit`: mm
    for volumes, px (pixels) for 2D images, whose pixels have no known size. `patient_of` is by case. `origins` are the
    cases of each part of the run that predicted them, see `evaluation.origins`; empty where nothing is known.
    """

    mean: Mapping[str, Statistic]
    labels: Mapping[str, LabelSummary]
    cases: int
    patient_of: Mapping[str, str]
    protocol: Protocol
    scores: tuple[LabelScore, ...]
    unit: Unit
    cases_without_prediction: tuple[str, ...] = ()
    cases_without_reference: tuple[str, ...] = ()
    labels_without_prediction: tuple[str, ...] = ()
    labels_without_reference: tuple[str, ...] = ()
    convention: Conventional | None = None
    comparisons: tuple[Comparison, ...] = ()
    ranks: Mapping[str, Mapping[str, Placed]] = field(default_factory=dict)
    origins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def patients(self) -> int:
        """How many there are."""
        return len(set(self.patient_of.values()))

    @property
    def measures(self) -> dict[str, Measure]:
        """Those that were taken."""
        return self.protocol.measures(self.unit)

    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`; distances carry their unit in their names."""
        content = {
            "mean": self.with_units(_as_dicts(self.mean)),
            "labels": {
                name: self.with_units(_as_dicts(label.figures))
                | {key: value for key, value in asdict(label).items() if key != "figures"}
                for name, label in self.labels.items()
            },
            "cases": self.cases,
            "patients": self.patients,
            f"tolerance_{self.unit}": self.protocol.tolerance,
        }
        if self.origins:
            content["cases_by_origin"] = {part: list(cases) for part, cases in self.origins.items()}
        if self.protocol.tolerances:
            content[f"tolerances_{self.unit}"] = dict(self.protocol.tolerances)
        if self.protocol.lesions:
            content["lesion_overlap"] = self.protocol.lesion_overlap
        sides = ("cases_without_prediction", "cases_without_reference")
        sides += ("labels_without_prediction", "labels_without_reference")
        content |= {"unit": self.unit} | {side: list(getattr(self, side)) for side in sides}
        if self.convention is not None:
            known = CONVENTIONS[self.convention.name]
            content["convention"] = asdict(self.convention) | {"rule": known.rule, "source": known.source}
        if self.comparisons:
            content["comparisons"] = [
                asdict(comparison)
                | {key: self.with_units(asdict(comparison)[key]) for key in ("differences", "with_seeds")}
                for comparison in self.comparisons
            ]
            content["ranks"] = self.with_units(
                {
                    measure: {who: {"rank": rank, "interval": span} for who, (rank, span) in placed.items()}
                    for measure, placed in self.ranks.items()
                }
            )
        return content | {"rule": RULE}

    def with_units(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Its keys that are measures, as files call them."""
        known = self.measures
        return {known[key].column(key, self.unit) if key in known else key: value for key, value in record.items()}


def summarise(
    rows: Iterable[LabelScore],
    cases: Sequence[str],
    labels: Sequence[str] | None,
    protocol: Protocol,
    unit: Unit = "mm",
    groups: Mapping[str, str] | None = None,
) -> Evaluation:
    """Fill in labels that a case lacks, and average.

    Args:
        labels: names in their order; None: those of the rows, label_<value>, by value.
        groups: patient of each case; None: every case is a patient.
    """
    rows = list(rows)
    labels = unnamed_labels(rows) if labels is None else labels
    scores = filled(rows, cases, labels, protocol, unit)
    patient_of = {case: case if groups is None else groups[case] for case in sorted(cases)}
    patients = list(patient_of.values())
    measures = protocol.measures(unit)
    tables = {name: table_of(scores, name, len(labels)) for name in measures}
    summaries = {
        label: _label(
            [score for score in scores if score.label == label],
            {name: _statistic(tables[name][:, [column]], patients, measure) for name, measure in measures.items()},
            patients,
        )
        for column, label in enumerate(labels)
    }
    means = {}
    for name, measure in measures.items():
        known = [label[name].mean for label in summaries.values() if label[name].mean is not None]
        spread = interval(tables[name], patients, measure.within) if known else None
        means[name] = Statistic(statistics.fmean(known) if known else None, spread)
    result = Evaluation(means, summaries, len(cases), patient_of, protocol, scores, unit)
    return result if protocol.convention is None else replace(result, convention=_conventional(result))


def unnamed_labels(rows: Iterable[LabelScore]) -> list[str]:
    """Those of rows whose labels have no names, label_<value>, by value."""
    return sorted({row.label for row in rows}, key=lambda label: int(label.removeprefix("label_")))


def filled(
    rows: Iterable[LabelScore], cases: Sequence[str], labels: Sequence[str], protocol: Protocol, unit: Unit
) -> tuple[LabelScore, ...]:
    """One row per case and label, sorted by case; neither side has what `rows` lack."""
    found, dims = {(row.case, row.label): row for row in rows}, 3 if unit == "mm" else 2
    return tuple(
        found.get((case, label)) or absent(case, label, dims, protocol) for case in sorted(cases) for label in labels
    )


def table_of(scores: Sequence[LabelScore], measure: str, labels: int) -> NDArray[np.float64]:
    """(cases, labels) of one measure, NaN where a case has none."""
    values = [score.values.get(measure) for score in scores]
    return np.array([np.nan if value is None else value for value in values], dtype=float).reshape(-1, max(labels, 1))


def headlines(result: Evaluation) -> dict[str, Measure]:
    """The measures that tables and claims are about."""
    return {name: result.measures[name] for name in HEADLINES}


def _as_dicts(figures: Mapping[str, Statistic]) -> dict[str, Any]:
    return {name: asdict(statistic) for name, statistic in figures.items()}


def _statistic(column: NDArray[np.float64], patients: Sequence[str], measure: Measure) -> Statistic:
    known = column[np.isfinite(column)].tolist()
    if not known:
        return Statistic()
    return Statistic(
        statistics.fmean(known),
        interval(column, patients, measure.within),
        statistics.pstdev(known),
        float(statistics.median(known)),
    )


def _label(scores: Sequence[LabelScore], figures: Mapping[str, Statistic], patients: Sequence[str]) -> LabelSummary:
    statuses = [score.status for score in scores]
    counted = {patient for patient, status in zip(patients, statuses, strict=True) if status != "both_empty"}
    return LabelSummary(
        figures,
        cases=len(scores) - statuses.count("both_empty"),
        patients=len(counted),
        missed=statuses.count("missed"),
        false_positive=statuses.count("false_positive"),
        both_empty=statuses.count("both_empty"),
    )


def _conventional(result: Evaluation) -> Conventional:
    name = result.protocol.convention
    metrics = CONVENTIONS[name].metrics
    labels = {
        label: {
            metric: _mean(score.conventional[metric] for score in result.scores if score.label == label)
            for metric in metrics
        }
        for label in result.labels
    }
    return Conventional(name, labels, {metric: _mean(means[metric] for means in labels.values()) for metric in metrics})


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
