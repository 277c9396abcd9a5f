"""The temperature that makes held-out labels likeliest, and how well it serves patients that it was not fitted on."""

import logging
import math
from collections.abc import Sequence

from scipy.optimize import minimize_scalar

from dlka_med.calibrating.sampling import Sample
from dlka_med.errors import InputError
from dlka_med.metrics import Reliability
from dlka_med.statistics import PARTS, deal

LOWEST, HIGHEST = 0.05, 20.0
RELATIVE_ERROR = 1e-3

log = logging.getLogger("dlka_med")


def fit_temperature(samples: Sequence[Sample]) -> float:
    """The temperature of least negative log-likelihood over voxels near the foreground (Guo et al., ICML 2017, 4.2).

    Every voxel of every case counts the same, by the weight of those that were drawn.

    Raises:
        ValueError: no voxel is near the foreground.
    """
    near = [sample for sample in samples if sample.near]
    if not near:
        raise ValueError("a temperature needs voxels near the foreground")
    found = minimize_scalar(
        lambda exponent: sum(sample.nll(math.exp(exponent)) for sample in near),
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": RELATIVE_ERROR},
    )
    return math.exp(found.x)


def deal_patients(samples: Sequence[Sample], parts: int = PARTS, seed: int = 0) -> list[list[Sample]]:
    """The samples in parts, or fewer where patients are few; nobody's voxels lie in two, and each has some near.

    Raises:
        InputError: fewer than two patients have voxels near the foreground.
    """
    telling = sorted({sample.patient for sample in samples if sample.near})
    refuse_few(len(telling), " that show a structure, in label or prediction")
    others = sorted({sample.patient for sample in samples} - set(telling))
    number = min(parts, len(telling))
    part_of = deal(telling, parts, seed)
    part_of |= {patient: place % number for place, patient in enumerate(others, len(telling))}
    dealt: list[list[Sample]] = [[] for _ in range(number)]
    for sample in samples:
        dealt[part_of[sample.patient]].append(sample)
    return dealt


def refuse_few(patients: int, which: str) -> None:
    """Raise `InputError` for fewer than two held-out patients; `which` of them count."""
    if patients < 2:
        raise InputError(
            f"only {patients} held-out patients{which}: a temperature needs two or more, one to fit it and one to see "
            "what it is worth; hold out more cases, or train all folds (dlka train --folds all) and give their folder"
        )


def cross_fitted(parts: Sequence[Sequence[Sample]]) -> list[tuple[Sample, float]]:
    """Every sample with the temperature fitted on all parts but its own."""
    found = []
    for held_out, part in enumerate(parts):
        others = [sample for index, other in enumerate(parts) if index != held_out for sample in other]
        temperature = fit_temperature(others)
        found += [(sample, temperature) for sample in part]
    return found


def measured(samples: Sequence[tuple[Sample, float]]) -> list[Reliability]:
    """Reliability of samples at their temperatures: one of classes, or one of each region."""
    found = [sample.reliability(temperature) for sample, temperature in samples]
    return [sum(ones, Reliability.empty()) for ones in zip(*found, strict=True)]


def warn_of_bounds(temperature: float) -> None:
    """Log a warning where the best temperature lies outside what was tried."""
    if not LOWEST * 1.01 < temperature < HIGHEST / 1.01:
        log.warning(
            "the temperature is %.3g, the end of what is tried: the network is right, or wrong, nearly everywhere; "
            "look at the held-out cases before you believe it",
            temperature,
        )
