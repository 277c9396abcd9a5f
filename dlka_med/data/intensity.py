"""How grey values become numbers around zero, chosen per channel."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.data.cases import Case
from dlka_med.data.load import load_case
from dlka_med.data.workers import Progress, in_workers
from dlka_med.errors import InputError

CT_STATISTICS = ("lower", "upper", "mean", "std")


def resolve_intensity(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    channels: Sequence[str],
    labels: Mapping[str, int],
    *,
    voxels_per_case: int = 10_000,
    workers: int = 0,
    progress: Progress | None = None,
) -> tuple[Intensity, ...]:
    """Make every entry of `preprocessing.intensity` explicit; only CT channels need the cases to be read.

    `auto` is `ct` for a channel called CT (in any case) and `zscore` for all others. Missing CT statistics
    are the 0.5th and 99.5th percentile, mean and deviation of the labelled foreground (Isensee et al. 2021,
    nnU-Net, online methods), over at most `voxels_per_case` voxels of each case, drawn by its id alone.

    Args:
        cases: training cases only, or the validation leaks into the statistics.

    Raises:
        InputError: a case cannot be used, none has a labelled foreground, or its values leave no range.
    """
    kinds = named_intensity(preprocessing, channels)
    open_channels = [index for index, kind in enumerate(kinds) if not is_resolved(kind)]
    if not open_channels:
        return kinds
    jobs = [(case, tuple(channels), dict(labels), open_channels, voxels_per_case) for case in cases]
    drawn = [voxels for voxels in in_workers(_foreground_voxels, jobs, workers, progress) if voxels.size]
    if not drawn:
        raise InputError(
            "no training case has a labelled foreground voxel: give intensity statistics for CT in the config"
        )
    voxels = np.concatenate(drawn, axis=1, dtype=np.float64)
    resolved = list(kinds)
    for index, values in zip(open_channels, voxels, strict=True):
        lower, upper = np.percentile(values, (0.5, 99.5))
        found = {"lower": lower, "upper": upper, "mean": values.mean(), "std": values.std() or 1.0}
        given = {key: value for key in CT_STATISTICS if (value := getattr(kinds[index], key)) is not None}
        statistics = {key: float(value) for key, value in found.items()} | given
        if statistics["lower"] >= statistics["upper"]:
            raise InputError(
                f"the labelled foreground of the training cases leaves no range of grey values in channel "
                f"{channels[index]!r}: lower {statistics['lower']:g}, upper {statistics['upper']:g}; check the images "
                "and labels, or give both in preprocessing.intensity"
            )
        resolved[index] = Intensity(kind="ct", **statistics)
    return tuple(resolved)


def named_intensity(preprocessing: Preprocessing, channels: Sequence[str]) -> tuple[Intensity, ...]:
    """One entry per channel; statistics of CT may still be missing.

    Raises:
        InputError: the number of entries is not the number of channels.
    """
    if preprocessing.intensity == "auto":
        return tuple(Intensity(kind="ct" if name.strip().lower() == "ct" else "zscore") for name in channels)
    if len(preprocessing.intensity) != len(channels):
        raise InputError(
            f"preprocessing.intensity has {len(preprocessing.intensity)} entries for {len(channels)} channels "
            f"{list(channels)}: give one entry per channel, or auto"
        )
    return preprocessing.intensity


def is_resolved(intensity: Intensity) -> bool:
    """Whether `normalise` has all the numbers it needs."""
    return intensity.kind != "ct" or all(getattr(intensity, key) is not None for key in CT_STATISTICS)


def normalise(volume: np.ndarray, intensity: Intensity) -> np.ndarray:
    """Standardise one channel.

    `zscore` takes mean and deviation over the nonzero voxels, so that an empty surrounding does not count,
    and shifts and scales every voxel; a constant image becomes 0 and stays finite.
    """
    if intensity.kind == "none":
        return volume
    if intensity.kind == "ct":
        if not is_resolved(intensity):
            raise ValueError("the intensity of a CT channel has no statistics yet: call resolve_intensity first")
        return (volume.clip(intensity.lower, intensity.upper) - np.float32(intensity.mean)) / np.float32(intensity.std)
    inside = volume[volume != 0]
    if not inside.size:
        return volume
    mean, std = inside.mean(dtype=np.float64), inside.std(dtype=np.float64)
    if std <= 1e-6 * abs(mean):
        std = max(abs(mean), 1.0)
    return (volume - np.float32(mean)) / np.float32(std)


def _foreground_voxels(
    job: tuple[Case, tuple[str, ...], dict[str, int], list[int], int],
) -> np.ndarray:
    case, channels, labels, wanted, limit = job
    loaded = load_case(case, channels, labels)
    if loaded.label is None:
        return np.empty((len(wanted), 0), dtype=np.float32)
    places = np.flatnonzero(loaded.label)
    if len(places) > limit:
        places = np.random.default_rng(zlib.crc32(case.id.encode())).choice(places, limit, replace=False)
    return np.stack([loaded.image[index].ravel()[places] for index in wanted])
