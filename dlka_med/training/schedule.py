"""How far a run has come, how much of it may go into validation, and the learning rate that follows."""

import math
from dataclasses import dataclass
from typing import Literal

from dlka_med.config.training import Training

VALIDATION_SHARE = 0.15  # of the minutes
VALIDATIONS = 5  # so many, at least, fit into the share


@dataclass(frozen=True)
class Budget:
    """What ends a run: epochs, minutes or whichever of both comes first."""

    epochs: int | None
    minutes: float | None
    steps_per_epoch: int

    @classmethod
    def of(cls, training: Training) -> "Budget":
        return cls(training.epochs, training.minutes, training.steps_per_epoch)

    @property
    def longest_validation(self) -> float:
        """Seconds that a validation may take; infinite without a limit of minutes."""
        return math.inf if self.minutes is None else 60 * self.minutes * VALIDATION_SHARE / VALIDATIONS

    def affords_validation(self, seconds: float, validating: float, estimate: float) -> bool:
        """Whether a validation now, and another at the end, keep within the share of all validations.

        Args:
            seconds: of the run so far.
            validating: of these, spent on validations.
            estimate: seconds of one validation.
        """
        if self.minutes is None:
            return True
        return validating + 2 * estimate <= VALIDATION_SHARE * min(seconds + 2 * estimate, 60 * self.minutes)

    def progress(self, step: int, training: float, validating: float = 0.0) -> float:
        """Share of the run that is over after `step` steps, in [0, 1].

        Args:
            training: seconds of training so far.
            validating: seconds of the minutes that do not train: of the validations so far and of the last one.
        """
        shares = [0.0]
        if self.epochs is not None:
            shares.append(step / (self.epochs * self.steps_per_epoch))
        if self.minutes is not None:
            shares.append(training / max(60 * self.minutes - validating, 1e-9))
        return min(max(shares), 1.0)

    def seconds_left(self, step: int, training: float, validating: float = 0.0) -> float:
        """Estimated seconds of training until the end, from the pace so far; infinite before the first step."""
        progress = self.progress(step, training, validating)
        return training * (1 - progress) / progress if progress > 0 else math.inf


def learning_rate_factor(progress: float, schedule: Literal["polynomial", "cosine"], warmup: float = 0.0) -> float:
    """Factor on the learning rate after a share `progress` of the run.

    It rises linearly over the first `warmup` share, then falls to zero: polynomial as (1 - t) ** 0.9
    (nnU-Net, Isensee et al. 2021, methods), cosine as in SGDR without restarts (Loshchilov and Hutter 2017).
    """
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    t = (progress - warmup) / (1 - warmup)
    return (1 - t) ** 0.9 if schedule == "polynomial" else 0.5 * (1 + math.cos(math.pi * t))
