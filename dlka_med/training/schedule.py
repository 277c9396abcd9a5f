"""How far a run has come, and the learning rate that follows from it."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Budget:
    """What ends a run: epochs, minutes or whichever of both comes first."""

    epochs: int | None
    minutes: float | None
    steps_per_epoch: int

    def progress(self, step: int, seconds: float, reserve: float = 0.0) -> float:
        """Share of the run that is over after `step` steps and `seconds` of training, in [0, 1].

        Args:
            reserve: seconds of the minutes that are kept for the last validation.
        """
        shares = [0.0]
        if self.epochs is not None:
            shares.append(step / (self.epochs * self.steps_per_epoch))
        if self.minutes is not None:
            shares.append(seconds / max(60 * self.minutes - reserve, 1e-9))
        return min(max(shares), 1.0)

    def seconds_left(self, step: int, seconds: float) -> float:
        """Estimated seconds until the end, from the pace so far; infinite before the first step."""
        progress = self.progress(step, seconds)
        return seconds * (1 - progress) / progress if progress > 0 else math.inf


def learning_rate_factor(progress: float, schedule: Literal["polynomial", "cosine"], warmup: float = 0.0) -> float:
    """Factor on the learning rate after a share `progress` of the run.

    It rises linearly over the first `warmup` share, then falls to zero: polynomial as (1 - t) ** 0.9
    (nnU-Net, Isensee et al. 2021, methods), cosine as in SGDR without restarts (Loshchilov and Hutter 2017).
    """
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    t = (progress - warmup) / (1 - warmup)
    return (1 - t) ** 0.9 if schedule == "polynomial" else 0.5 * (1 + math.cos(math.pi * t))
