"""What there is to know of a case's grey values, measured once, on the grid of its files."""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import gcd
from typing import Any

import numpy as np

from dlka_med.config.labels import IGNORED
from dlka_med.data.boxes import slabs

FOREGROUND_SAMPLE = 10_000  # voxels per case
PERCENTILE_SAMPLE = 1_000_000  # voxels per channel
PERCENTILES = (0.5, 99.5)
BORDER_SHARE = 0.1
DARK_SHARE = 0.1  # of the brightest grey: what lies between 0 and it is nearly black


@dataclass(frozen=True)
class Moments:
    """Mean and deviation of some voxels, their 0.5th and 99.5th percentile, and both once clipped to these."""

    mean: float = 0.0
    std: float = 0.0
    lower: float = 0.0
    upper: float = 0.0
    clipped_mean: float = 0.0
    clipped_std: float = 0.0


@dataclass(frozen=True)
class GreyValues:
    """One channel of one case.

    `whole` is of all voxels of the crop, `nonzero` of those that are not 0. `is_surrounded`: 0 is an empty
    surrounding, see `measure`. `outside` is the grey value that lies around the crop. `extreme` is the voxel, of the
    file, that is farthest from the mean, and `peak` its value.
    """

    whole: Moments
    nonzero: Moments
    is_surrounded: bool
    outside: float
    extreme: tuple[int, ...]
    peak: float


@dataclass(frozen=True)
class Measured:
    """All channels of a case; `foreground` (C, N) are values of at most 10 000 labelled voxels."""

    channels: tuple[GreyValues, ...]
    foreground: np.ndarray

    def facts(self) -> list[dict[str, Any]]:
        """The channels, ready for JSON."""
        return [asdict(channel) for channel in self.channels]

    @classmethod
    def of_facts(cls, facts: Sequence[dict[str, Any]], foreground: np.ndarray) -> "Measured":
        """Back from `facts`."""
        channels = []
        for entry in facts:
            moments = {key: Moments(**entry[key]) for key in ("whole", "nonzero")}
            channels.append(GreyValues(**entry | moments | {"extreme": tuple(entry["extreme"])}))
        return cls(tuple(channels), foreground)


def measure(
    case_id: str,
    image: np.ndarray,
    label: np.ndarray | None,
    start: Sequence[int],
    end: Sequence[int],
) -> Measured:
    """Measure an image (C, *S) that will be cropped to `start` ... `end`; label (*S).

    0 is an empty surrounding of an image if at least a tenth of its outermost voxels are exactly 0, and if 0 is set
    apart from the darkest greys: voxels below a tenth of the 99.5th percentile of the others are less than a tenth as
    many as the zeros. What lies around the crop is then 0, as it is wherever something was cropped away; around other
    images it is the median of the outermost voxels.

    Args:
        case_id: the sample of the labelled voxels depends on it alone.
    """
    box = tuple(map(slice, start, end))
    is_cropped = box != tuple(slice(0, size) for size in image.shape[1:])
    sample = np.empty((len(image), 0), dtype=np.float32)
    if label is not None:
        places = np.flatnonzero((label > 0) & (label != IGNORED))
        if len(places) > FOREGROUND_SAMPLE:
            random = np.random.default_rng(zlib.crc32(case_id.encode()))
            places = random.choice(places, FOREGROUND_SAMPLE, replace=False)
        sample = np.stack([channel.ravel()[places] for channel in image])
    return Measured(tuple(_measure_channel(channel, box, is_cropped) for channel in image), sample)


def _measure_channel(volume: np.ndarray, box: tuple[slice, ...], is_cropped: bool) -> GreyValues:
    border, inside = outermost(volume), volume[box]
    whole, nonzero = _moments(inside), _moments(inside, nonzero=True)
    is_surrounded = float((border == 0).mean()) >= BORDER_SHARE and _is_apart(volume, nonzero)
    farthest = inside.argmin(), inside.argmax()
    peak_at = max(farthest, key=lambda place: abs(float(inside.flat[place]) - whole.mean))
    index = np.unravel_index(peak_at, inside.shape)
    return GreyValues(
        whole=whole,
        nonzero=nonzero,
        is_surrounded=is_surrounded,
        outside=0.0 if is_surrounded or is_cropped else float(np.median(border)),
        extreme=tuple(int(place + part.start) for place, part in zip(index, box, strict=True)),
        peak=float(inside[index]),
    )


def outermost(volume: np.ndarray) -> np.ndarray:
    """The outermost voxels; edges count once for each side that they belong to."""
    return np.concatenate([volume.take(side, axis).ravel() for axis in range(volume.ndim) for side in (0, -1)])


def _is_apart(volume: np.ndarray, nonzero: Moments) -> bool:
    level = DARK_SHARE * nonzero.upper
    zeros = sum(int((part == 0).sum()) for part in slabs(volume))
    dark = sum(int(((part != 0) & (np.abs(part) <= level)).sum()) for part in slabs(volume))
    return dark < BORDER_SHARE * zeros


def _moments(volume: np.ndarray, nonzero: bool = False) -> Moments:
    flat = volume.ravel()
    # A step that divides the length of an axis would meet the same few slices again and again.
    steps = itertools.count(max(len(flat) // PERCENTILE_SAMPLE, 1))
    sample = flat[:: next(step for step in steps if gcd(step, len(flat)) == 1)]
    sample = sample[sample != 0] if nonzero else sample
    if not sample.size:
        sample = flat[flat != 0] if nonzero else flat
    if not sample.size:
        return Moments()
    lower, middle, upper = (float(value) for value in np.percentile(sample, (PERCENTILES[0], 50, PERCENTILES[1])))
    plain = _mean_and_std(volume, nonzero, middle)
    return Moments(*plain, lower, upper, *_mean_and_std(volume, nonzero, middle, (lower, upper)))


def _mean_and_std(
    volume: np.ndarray, nonzero: bool, pivot: float, limits: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float]:
    """In float64, slab by slab, so that copies stay small; squares about a typical value, so that they stay exact."""
    count, total, squares = 0, 0.0, 0.0
    for slab in slabs(volume):
        values = (slab[slab != 0] if nonzero else slab).astype(np.float64).clip(*limits) - pivot
        count += values.size
        total += float(values.sum())
        squares += float((values**2).sum())
    mean = total / count
    return pivot + mean, float(np.sqrt(max(squares / count - mean**2, 0.0)))
