"""From the logits of a voxel to its class."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from torch import Tensor

from dlka_med.config.labels import LabelScheme
from dlka_med.errors import InputError

IN_CACHE = 2**14  # voxels whose largest logits stay in the fastest cache
HALF = 0.5


@dataclass(frozen=True)
class Decision:
    """What logits become in a label map.

    Args:
        painted: the logits are those of regions: class index that each paints, over the ones before; None: the logits
            are those of classes, of which the likeliest counts.
        thresholds: probability, one per region, over which a voxel belongs to it; None: 0.5 for all.
        temperature: of the probabilities that thresholds are compared with; it does not count for 0.5.

    Raises:
        ValueError: thresholds without regions, of another number, or not between 0 and 1.
    """

    painted: Sequence[int] | None = None
    thresholds: Sequence[float] | None = None
    temperature: float = 1.0

    def __post_init__(self):
        check_temperature(self.temperature)
        if self.thresholds is None:
            return
        if self.painted is None or len(self.painted) != len(self.thresholds):
            raise ValueError(f"thresholds need one number per region, got {self.thresholds} for {self.painted}")
        if not all(0 < threshold < 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds must be more than 0 and less than 1, got {tuple(self.thresholds)}")

    @property
    def regions(self) -> Iterator[tuple[int, float, float, float]]:
        """Class index, threshold, its temperature and the least logit of each region."""
        for index, threshold in zip(self.painted, self.thresholds or [HALF] * len(self.painted), strict=True):
            temperature = 1.0 if threshold == HALF else self.temperature
            yield index, threshold, temperature, temperature * log(threshold / (1 - threshold))

    def check(self, logits: Tensor) -> None:
        """Raise `ValueError` unless logits (K, ...) can be decided."""
        if len(logits) > 256:
            raise ValueError(f"class indices are uint8: at most 256 classes, got {len(logits)}")
        if self.painted is not None and len(self.painted) != len(logits):
            raise ValueError(f"{len(logits)} regions in the logits, but {len(self.painted)} class indices to paint")


def thresholds_of(scheme: LabelScheme, given: Mapping[str, float]) -> tuple[float, ...] | None:
    """One threshold per region out of those that are named, 0.5 for the others; None if none is.

    Raises:
        InputError: the labels are no regions, a name is none of theirs, or a threshold is not between 0 and 1.
    """
    for name, threshold in given.items():
        if not scheme.has_regions:
            raise InputError(
                f"a threshold for {name!r}, but the labels of the run are classes, of which the likeliest counts: "
                "leave it out"
            )
        if name not in scheme.names:
            raise InputError(f"a threshold for {name!r}, but the regions of the run are {', '.join(scheme.names)}")
        if not 0 < threshold < 1:
            raise InputError(f"the threshold of {name!r} is {threshold:g}, expected more than 0 and less than 1")
    return tuple(given.get(name, HALF) for name in scheme.names) if given else None


def likeliest(plane: Tensor) -> np.ndarray:
    """Class indices, uint8, of logits (K, ...): the first of equals. On CPUs torch takes many times as long for it."""
    if plane.device.type != "cpu" or plane.dtype not in (torch.float32, torch.float64):
        return plane.argmax(dim=0).to(torch.uint8).cpu().numpy()
    logits, classes = plane.detach().flatten(1).numpy(), np.zeros(plane.shape[1:], np.uint8)
    for start in range(0, classes.size, IN_CACHE):
        part, target = logits[:, start : start + IN_CACHE], classes.reshape(-1)[start : start + IN_CACHE]
        best = part[0].copy()
        for index in range(1, len(part)):
            np.putmask(target, part[index] > best, index)
            np.maximum(best, part[index], out=best)
    return classes


def check_temperature(temperature: float) -> None:
    """Raise `ValueError` unless it is positive and finite."""
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
