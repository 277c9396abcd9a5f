"""The figures of all runs of a comparison: seeds averaged case by case, then networks in pairs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dlka_med.comparing.costs import Costs, costs_of
from dlka_med.comparing.folder import ComparisonFolder, RunKey
from dlka_med.comparing.runs import Outcome
from dlka_med.comparing.tuning import OF_SEVERAL_FOLDS, read_searches, searched_on_compared
from dlka_med.comparing.weights import rule_of
from dlka_med.errors import InputError
from dlka_med.evaluation.against import compared
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.evaluation.measures import MEASURES
from dlka_med.evaluation.score import LabelScore
from dlka_med.evaluation.summary import Evaluation, summarise
from dlka_med.statistics import SEEDS_RULE

Seeds = Mapping[int, Evaluation]


@dataclass(frozen=True)
class Contestant:
    """A network of a comparison, or a variant of one.

    Args:
        mean: of the scores averaged over seeds, case by case.
        seeds: each for itself, over the same cases.
    """

    mean: Evaluation
    seeds: Seeds
    costs: Costs

    @property
    def seed_means(self) -> dict[int, float | None]:
        """Mean Dice of each seed."""
        return {seed: result.mean["dice"].mean for seed, result in self.seeds.items()}

    @property
    def spread(self) -> float | None:
        """Standard deviation (n - 1) of the seeds' mean Dice; None of a single seed."""
        known = [mean for mean in self.seed_means.values() if mean is not None]
        return statistics.stdev(known) if len(known) > 1 else None


def seed_noise(one: Contestant, other: Contestant) -> float | None:
    """Standard error of the difference of two mean Dice that comes from their seeds alone; None if one has one seed.

    The patients' interval of the difference does not hold it: the same seeds were averaged for all patients. What is
    claimed does, see `dlka_med.statistics.seeded_difference`.
    """
    if one.spread is None or other.spread is None:
        return None
    return math.hypot(*(each.spread / math.sqrt(len(each.seeds)) for each in (one, other)))


@dataclass(frozen=True)
class Comparison:
    """What a comparison found, over the cases that all networks predicted with all their seeds.

    Args:
        networks: the first with the paired comparisons against each of the others, and the ranks of all.
        left_out: runs, and why; what they should have predicted is not counted for anyone.
        lost: cases that some runs predicted, but not all.
        files: where the result was written.
    """

    networks: Mapping[str, Contestant]
    left_out: Mapping[str, str]
    lost: tuple[str, ...]
    files: ComparisonFolder

    @cached_property
    def first(self) -> Evaluation:
        """That of the first network, with the comparisons."""
        return next(iter(self.networks.values())).mean

    @cached_property
    def weights(self) -> str:
        """Which weights were compared."""
        return rule_of(self.files.read_configs([*self.networks]).values())

    def summary(self) -> dict[str, Any]:
        """The content of `compare.json`; as `summary.json` of an evaluation for each network."""
        content: dict[str, Any] = {"networks": {}}
        for name, one in self.networks.items():
            whole = one.mean.summary()
            content["networks"][name] = {
                "mean": whole["mean"],
                "labels": whole["labels"],
                "seeds": {str(seed): mean for seed, mean in one.seed_means.items()},
                "spread_of_seeds": one.spread,
                **asdict(one.costs),
            }
        first, *others = self.networks
        content["seed_noise"] = {name: seed_noise(self.networks[first], self.networks[name]) for name in others}
        whole = self.first.summary()
        for key in ("comparisons", "ranks", "cases", "patients", f"tolerance_{self.first.unit}", "unit", "rule"):
            content[key] = whole[key]
        content["rule"] += f" {SEEDS_RULE} {self.weights[0].upper()}{self.weights[1:]}."
        if searched_on_compared(self.files.read()):
            content["rule"] += f" {OF_SEVERAL_FOLDS[0].upper()}{OF_SEVERAL_FOLDS[1:]}."
        content["tuning"] = {name: asdict(one) for name, one in read_searches(self.files).items()} or None
        return content | {"left_out": dict(self.left_out), "cases_lost": list(self.lost)}


def joined(folder: ComparisonFolder, outcomes: Mapping[RunKey, Outcome], workers: int = 1) -> Comparison:
    """Evaluate the predictions of each network and seed once, average over seeds, and compare.

    Args:
        outcomes: of all runs.
        workers: processes that evaluate.

    Raises:
        InputError: no run of a network is left, or no case was predicted by all; or as in `evaluate`.
    """
    fit = {key: outcome for key, outcome in outcomes.items() if outcome.failed is None}
    names = list(dict.fromkeys(key.network for key in outcomes))
    for name in names:
        if not any(key.network == name for key in fit):
            why = next(outcome.failed for key, outcome in outcomes.items() if key.network == name)
            raise InputError(f"every run of {name} was left out, so that nothing can be compared: {why}")
    dataset = folder.run(next(iter(fit))).config.dataset
    root = Path(dataset.root)
    predicted = {
        (name, seed): {case for key in fit if key[:2] == (name, seed) for case in folder.run(key).split["validation"]}
        for name, seed in dict.fromkeys(key[:2] for key in fit)
    }
    whole = {
        pair: evaluate(
            folder.predictions(*pair),
            root,
            label_names=dataset.labels,
            groups=dataset.groups,
            only=cases,
            workers=workers,
        )
        for pair, cases in predicted.items()
    }
    common = sorted(set.intersection(*predicted.values()))
    if not common:
        raise InputError("there is no case that all of them predicted: " + "; ".join(_reasons(outcomes).values()))
    patients = {case: patient for result in whole.values() for case, patient in result.patient_of.items()}
    seeds: dict[str, dict[int, Evaluation]] = {name: {} for name in names}
    for (name, seed), result in whole.items():
        seeds[name][seed] = _of_cases(result, result.scores, common, patients)
    means = {
        name: _of_cases(next(iter(runs.values())), averaged(runs), common, patients) for name, runs in seeds.items()
    }
    first = names[0]
    trained = {name: [run.scores for run in runs.values()] for name, runs in seeds.items()}
    means[first] = compared(means[first], {name: mean.scores for name, mean in means.items()}, patients, trained)
    contestants = {}
    for name in names:
        keys = [key for key in fit if key.network == name]
        runs = [folder.run(key) for key in keys]
        costs = costs_of(runs[0].config, runs, [fit[key] for key in keys])
        contestants[name] = Contestant(means[name], seeds[name], costs)
    lost = sorted(set.union(*predicted.values()) - set(common))
    return Comparison(contestants, _reasons(outcomes), tuple(lost), folder)


def _reasons(outcomes: Mapping[RunKey, Outcome]) -> dict[str, str]:
    return {str(key): outcome.failed for key, outcome in outcomes.items() if outcome.failed is not None}


def _of_cases(
    result: Evaluation, scores: Sequence[LabelScore], cases: Sequence[str], patients: Mapping[str, str]
) -> Evaluation:
    rows = [row for row in scores if row.case in set(cases)]
    return summarise(rows, cases, list(result.labels), result.protocol, result.unit, patients)


def averaged(runs: Seeds) -> list[LabelScore]:
    """Each case and label with the mean over seeds; one that rightly finds nothing where others find something counts
    as perfect there."""
    by_place: dict[tuple[str, str], list[LabelScore]] = {}
    for result in runs.values():
        for row in result.scores:
            by_place.setdefault((row.case, row.label), []).append(row)
    averaged = []
    for rows in by_place.values():
        values = {}
        for name in rows[0].values:
            known = [row.values[name] for row in rows if row.values[name] is not None]
            right = [MEASURES[name].best] * (len(rows) - len(known))
            values[name] = statistics.fmean(known + right) if known else None
        telling = next((row for row in rows if row.status != "both_empty"), rows[0])
        averaged.append(replace(telling, values=values))
    return averaged
