"""Which step is worth keeping: chosen on some patients, measured on others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlka_med.inference.postprocess import Step
from dlka_med.postprocessing.trials import Family, Trial
from dlka_med.statistics import LEVEL, PARTS, Interval, deal, difference, p_of_best

CHANCE = 0.05
LEAST_PATIENTS = 5  # if all get better, the probability of chance is 1/32
ROUNDING = 1e-9
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of the volumes of components that are not the largest of a case
RULE = (
    "Steps are tried in this order, each on maps that the kept ones before have changed: the largest component of all "
    "foreground, the components of each label (the largest alone, or none below one of a few volumes), the holes of "
    f"each. Patients (groups of cases) are dealt into {PARTS} parts. On all parts but one the step of best mean Dice "
    "is chosen, or none, and its gain is measured on the one left out; dice before and after, gain, interval, better, "
    "worse and the components removed are these, of patients that did not choose. A step is kept if all of this holds: "
    f"chance, the probability of so good a best step where signs are random, is at most {CHANCE:g} (flips of whole "
    f"patients, all steps of the label at once); the {LEVEL:.0%} interval of the gain lies above 0, or no patient gets "
    "worse; no label's mean gets worse; no more true components (that touch the reference of the label) than false "
    "ones go. Then it is the best step on all patients. Where prediction and reference are both empty, the Dice counts "
    "as 1 here: taking away all that is false is a gain. Voxels to be ignored count nowhere."
)


@dataclass(frozen=True)
class Gain:
    """Mean Dice over cases, of patients that did not choose the step."""

    before: float
    after: float

    @property
    def gain(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Decision:
    """What became of a family of steps.

    Attributes:
        step: the best of them on all patients; None: none is better than nothing.
        refusal: why it is not kept; None if it is.
        mean: over the labels that decide: its own, or all of them.
        interval: of the mean gain; None where patients are few.
        chance: the probability of so good a best step by chance alone; None without one.
        labels: of each label that such a step changes.
        better, worse: patients.
        false_removed, true_removed: components, in all cases.
    """

    family: Family
    step: Step | None
    refusal: str | None
    mean: Gain
    interval: Interval | None
    chance: float | None
    labels: dict[str, Gain]
    better: int
    worse: int
    false_removed: int
    true_removed: int

    @property
    def kept(self) -> bool:
        return self.refusal is None


def decide(
    family: Family, trials: Sequence[Trial], names: Sequence[str], voxels: Sequence[float], patients: Sequence[str]
) -> Decision:
    """Choose a step by cross-fitting, see `RULE`.

    Args:
        trials: of each case.
        names: of the labels that are scored, as in `Family.scored`.
        voxels: volume of a voxel of each case.
        patients: of each case.
    """
    options = steps_of(family, trials, voxels)
    taken = [[step.takes(one.sizes, voxel) for one, voxel in zip(trials, voxels, strict=True)] for step in options]
    before = np.stack([one.dice(np.zeros(len(one.sizes), bool)) for one in trials])
    after = np.stack([[one.dice(some) for one, some in zip(trials, parts, strict=True)] for parts in taken])
    own = slice(None) if family.label is None else slice(1)
    gains = (after - before)[..., own].mean(axis=2)
    fitted, choices = _cross_fitted(gains, before, after, patients)
    removed = [
        (int(trial.false[taken[choice][case]].sum()), int(trial.true[taken[choice][case]].sum()))
        for case, (trial, choice) in enumerate(zip(trials, choices, strict=True))
        if choice is not None and not family.of_holes
    ]
    false, true = (sum(counts) for counts in zip((0, 0), *removed, strict=True))
    apart = difference(fitted[:, own], before[:, own], patients)
    best = _best(gains)
    better, worse = _patients((fitted - before)[:, own].mean(axis=1), patients)
    chance = None if best is None else p_of_best(gains.T, best, patients)
    labels = {name: Gain(*pair) for name, *pair in zip(names, before.mean(axis=0), fitted.mean(axis=0), strict=True)}
    refusal = None
    if best is None:
        told = "fill" if family.of_holes else "remove"
        changes = any(some.any() for parts in taken for some in parts)
        refusal = "no better on all patients" if changes else f"nothing to {told}"
    elif harmed := [name for name, found in labels.items() if found.gain < -ROUNDING]:
        refusal = f"{', '.join(harmed)} worse on other patients"
    elif true > false:
        refusal = "more true components go than false ones"
    elif chance > CHANCE or (worse and (apart.interval is None or apart.interval[0] <= ROUNDING)):
        refusal = "cannot be told from chance"
    return Decision(
        family,
        step=None if best is None else options[best],
        refusal=refusal,
        mean=Gain(float(before[:, own].mean()), float(fitted[:, own].mean())),
        interval=apart.interval,
        chance=chance,
        labels=labels,
        better=better,
        worse=worse,
        false_removed=false,
        true_removed=true,
    )


def steps_of(family: Family, trials: Sequence[Trial], voxels: Sequence[float]) -> list[Step]:
    """The steps of a family; volumes lie midway between those of predicted components, whatever these are worth."""
    if family.of_holes:
        return [Step("holes", family.label)]
    largest = Step("largest", family.label)
    if family.label is None:
        return [largest]
    volumes = [trial.sizes[1:] * voxel for trial, voxel in zip(trials, voxels, strict=True)]
    smaller = np.concatenate([np.sort(found)[:-1] for found in volumes])
    if not smaller.size:
        return [largest]
    known, limits = np.unique(np.concatenate(volumes)), []
    for volume in np.quantile(smaller, QUANTILES, method="higher"):
        larger = known[known > volume]
        if larger.size:
            limits.append(float(f"{np.sqrt(volume * larger[0]):.4g}"))
    return [largest, *(Step("minimum", family.label, limit) for limit in dict.fromkeys(limits))]


def _cross_fitted(
    gains: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64], patients: Sequence[str]
) -> tuple[NDArray[np.float64], list[int | None]]:
    """Dice of each case (cases, labels) after the option that is best for the other parts of patients, and which."""
    part_of = deal(patients)
    parts = np.array([part_of[patient] for patient in patients])
    chosen = [_best(gains[:, parts != part]) for part in range(max(parts) + 1)]
    choices = [chosen[part] for part in parts]
    fitted = [before[case] if choice is None else after[choice, case] for case, choice in enumerate(choices)]
    return np.stack(fitted), choices


def _best(gains: NDArray[np.float64]) -> int | None:
    """The option, of (options, cases), of largest mean gain; None if none is a gain."""
    means = gains.mean(axis=1)
    best = int(np.argmax(means))
    return best if means[best] > ROUNDING else None


def _patients(gains: NDArray[np.float64], patients: Sequence[str]) -> tuple[int, int]:
    """How many get better, and worse, in the mean over their cases."""
    whose = np.array(patients)
    means = np.array([gains[whose == patient].mean() for patient in dict.fromkeys(patients)])
    return int((means > ROUNDING).sum()), int((means < -ROUNDING).sum())
