"""How grey values become numbers around zero, chosen per channel."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.data.grey import PERCENTILES, GreyValues, Measured, Moments
from dlka_med.errors import InputError

CT_STATISTICS = ("lower", "upper", "mean", "std")

log = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class Scale:
    """Numbers of one case: each channel is clipped to its limits, less `mean`, divided by `std`.

    `outside` are the grey values that lie around the image, before they are scaled. All are (C,), float32.
    """

    lower: np.ndarray
    upper: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    outside: np.ndarray

    @classmethod
    def of(cls, intensity: Sequence[Intensity], measured: Measured) -> "Scale":
        """The scale of a case under the resolved intensity of its channels.

        Raises:
            ValueError: a CT channel has no statistics yet.
        """
        rows = [_numbers(kind, grey) for kind, grey in zip(intensity, measured.channels, strict=True)]
        return cls(*np.array(rows, dtype=np.float32).reshape(-1, 5).T)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Standardise a whole image or a patch of it, (C, *S)."""
        lower, upper, mean, std = (
            numbers.reshape(-1, *[1] * (image.ndim - 1)) for numbers in (self.lower, self.upper, self.mean, self.std)
        )
        scaled = image.clip(lower, upper)
        scaled -= mean
        scaled /= std
        return scaled

    @property
    def empty(self) -> tuple[float, ...]:
        """What lies around the image, scaled like it: the value to pad a channel with."""
        return tuple(self(self.outside[:, None])[:, 0].tolist())


def resolve_intensity(
    preprocessing: Preprocessing, channels: Sequence[str], cases: Sequence[Measured]
) -> tuple[Intensity, ...]:
    """Make every entry of `preprocessing.intensity` explicit.

    `auto` is `ct` for a channel called CT (in any case). All others are `zscore_nonzero` if 0 is an empty surrounding
    (see `dlka_med.data.grey.measure`) in at least half of the cases, else `zscore`: one rule for a whole dataset, so
    that equal pictures become equal numbers. Missing CT statistics are the 0.5th and 99.5th percentile, mean and
    deviation of the labelled foreground (Isensee et al. 2021, nnU-Net, online methods).

    Args:
        cases: training cases only, or the validation leaks into the statistics.

    Raises:
        InputError: CT statistics are missing, and no case has a labelled foreground, or its values leave no range.
    """
    resolved = list(named_intensity(preprocessing, channels))
    for index, kind in enumerate(resolved):
        if not is_resolved(kind):
            resolved[index] = _ct_of(kind, channels[index], [case.foreground[index] for case in cases])
        elif preprocessing.intensity == "auto":
            surrounded = sum(case.channels[index].is_surrounded for case in cases)
            resolved[index] = Intensity(kind="zscore_nonzero" if 2 * surrounded >= len(cases) else "zscore")
    return tuple(resolved)


def named_intensity(preprocessing: Preprocessing, channels: Sequence[str]) -> tuple[Intensity, ...]:
    """One entry per channel; statistics of CT may still be missing, and `auto` is `zscore_nonzero` but for CT.

    Raises:
        InputError: the number of entries is not the number of channels.
    """
    if preprocessing.intensity == "auto":
        return tuple(Intensity(kind="ct" if name.strip().lower() == "ct" else "zscore_nonzero") for name in channels)
    if len(preprocessing.intensity) != len(channels):
        raise InputError(
            f"preprocessing.intensity has {len(preprocessing.intensity)} entries for {len(channels)} channels "
            f"{list(channels)}: give one entry per channel, or auto"
        )
    return preprocessing.intensity


def is_resolved(intensity: Intensity) -> bool:
    """Whether all the numbers are there that do not come from the image itself."""
    return intensity.kind != "ct" or all(getattr(intensity, key) is not None for key in CT_STATISTICS)


def is_robust(intensity: Intensity) -> bool:
    """Whether the image is clipped to percentiles of its own, which happens before it is resampled."""
    return intensity.kind.startswith("robust")


def clip_outliers(volume: np.ndarray, intensity: Intensity, grey: GreyValues) -> np.ndarray:
    """A channel without what a `robust` standardisation takes for outliers; others as they are."""
    if not is_robust(intensity):
        return volume
    moments = _moments(intensity, grey)
    return volume.clip(moments.lower, moments.upper)


def warn_of_outliers(case_id: str, channels: Sequence[str], intensity: Sequence[Intensity], measured: Measured) -> None:
    """Log a warning for each z-scored channel whose deviation the outermost hundredth of its voxels decides.

    Within the percentiles the deviation is at most half of their distance; more than all of it shows outliers.
    """
    for name, kind, grey in zip(channels, intensity, measured.channels, strict=True):
        moments = _moments(kind, grey)
        if kind.kind.startswith("zscore") and moments.std > moments.upper - moments.lower > 0:
            log.warning(
                "case %s: outliers decide the standardisation of channel %r: voxel %s of the file is %g, but 99 of 100 "
                "voxels lie between %g and %g; mend the image, or set preprocessing.intensity to {kind: %s}",
                *(case_id, name, grey.extreme, grey.peak, moments.lower, moments.upper),
                kind.kind.replace("zscore", "robust"),
            )


def _numbers(intensity: Intensity, grey: GreyValues) -> tuple[float, ...]:
    """Lower, upper, mean, std and outside of one channel."""
    if intensity.kind == "none":
        return -np.inf, np.inf, 0.0, 1.0, grey.outside
    if intensity.kind == "ct":
        if not is_resolved(intensity):
            raise ValueError("the intensity of a CT channel has no statistics yet: call resolve_intensity first")
        return *(getattr(intensity, key) for key in CT_STATISTICS), intensity.lower
    moments, lower, upper = _moments(intensity, grey), -np.inf, np.inf
    mean, std = moments.mean, moments.std
    if is_robust(intensity):
        mean, std, lower, upper = moments.clipped_mean, moments.clipped_std, moments.lower, moments.upper
    if std <= 1e-6 * abs(mean):
        std = max(abs(mean), 1.0)
    return lower, upper, mean, std, grey.outside


def _moments(intensity: Intensity, grey: GreyValues) -> Moments:
    return grey.nonzero if intensity.kind.endswith("_nonzero") else grey.whole


def _ct_of(given: Intensity, channel: str, drawn: Sequence[np.ndarray]) -> Intensity:
    values = np.concatenate([np.empty(0), *drawn], dtype=np.float64)
    if not values.size:
        raise InputError(
            "no training case has a labelled foreground voxel: give intensity statistics for CT in the config"
        )
    lower, upper = np.percentile(values, PERCENTILES)
    found = {"lower": lower, "upper": upper, "mean": values.mean(), "std": values.std() or 1.0}
    known = {key: value for key in CT_STATISTICS if (value := getattr(given, key)) is not None}
    statistics = {key: float(value) for key, value in found.items()} | known
    if statistics["lower"] >= statistics["upper"]:
        raise InputError(
            f"the labelled foreground of the training cases leaves no range of grey values in channel "
            f"{channel!r}: lower {statistics['lower']:g}, upper {statistics['upper']:g}; check the images "
            "and labels, or give both in preprocessing.intensity"
        )
    return Intensity(kind="ct", **statistics)
