"""Rules for the data: split, orientation, crop and grey values."""

import re
from collections.abc import Sequence

from dlka_med.planning.choice import Choice, Choices
from dlka_med.planning.summary import Channel, Summary

FOLDS = 5
CROP_GAIN = 0.98  # of the voxels left, above which cropping is no gain


def run_name(summary: Summary, network: str) -> Choice:
    """`name` of the run: that of the dataset and of the network."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", summary.name).strip("._-") or "dataset"
    return Choice(f"{plain[:150]}_{network}", "of the dataset and the network; the run folder is called so")


def fold_count(summary: Summary) -> int:
    """Folds of a dataset of two groups or more."""
    return min(FOLDS, summary.groups)


def dataset(summary: Summary, root: str, plane: Choice) -> Choices:
    """The section `dataset`."""
    names = ", ".join(channel.name for channel in summary.channels)
    listed = ", ".join(one.name for one in summary.structures[:5])
    more = f" and {summary.labels - 5} more" if summary.labels > 5 else ""
    if summary.groups < 2:
        folds, fold = Choice(FOLDS, "not used"), Choice("all", "there is one group of cases, so that none can validate")
    else:
        folds = Choice(fold_count(summary), f"of {summary.cases} cases in {summary.groups} groups")
        fold = Choice(0, "the fold that validates; all: every case trains and none validates")
    settings = {
        "root": Choice(root, "folder of the dataset"),
        "channels": Choice(None, f"as the dataset says: {names}"),
        "labels": Choice(None, f"as the dataset says: {listed}{more}"),
        "regions_class_order": Choice(None, "of labels that are regions, as the dataset says"),
        "segments": Choice(None, "colours and codes of labels in DICOM-SEG, as the dataset says, if it does"),
        "slices": plane,
        "groups": Choice(None, "groups.csv of the dataset, if any"),
        "folds": folds,
        "folds_may_leak": Choice(False, "whether a group may lie in several folds of a file of folds"),
        "fold": fold,
        "test_cases": Choice([], "case ids that neither train nor validate"),
        "cache": Choice(None, "dlka_med in the user's cache directory"),
        "cache_gib": Choice(50.0, "what went unused longest makes room"),
    }
    return {f"dataset.{key}": choice for key, choice in settings.items()}


def preprocessing(summary: Summary, spacing: Choice, axes: Sequence[int]) -> Choices:
    """The section `preprocessing`.

    Args:
        axes: of a case that the network sees; the slices across the others stay as they are.
    """
    volumes = summary.dims == 3
    if sliced := len(axes) < summary.dims:
        mm = [step if axis in axes else None for axis, step in enumerate(spacing.value)]
        spacing = Choice(tuple(mm), f"{spacing.reason}; null: the slices as they are")
    settings = {
        "orientation": Choice("RAS" if volumes else None, "one for all" if volumes else "of volumes only"),
        "spacing": spacing,
        "crop_foreground": _crop(summary, sliced),
        "intensity": intensity(summary.channels),
    }
    return {f"preprocessing.{key}": choice for key, choice in settings.items()}


def _crop(summary: Summary, sliced: bool) -> Choice:
    if summary.dims == 2:
        return Choice(False, "2D images stay")
    if sliced:
        return Choice(False, "slices keep the empty space that those to predict have around them")
    kept = f"{100 * summary.kept:.0f} % of the voxels stay"
    return Choice(True, kept if summary.kept < CROP_GAIN else "next to nothing is empty")


def intensity(channels: tuple[Channel, ...]) -> Choice:
    """`preprocessing.intensity`: `auto`, unless a channel has outliers."""
    spoilt = [channel for channel in channels if channel.outliers and not channel.is_ct]
    if not spoilt:
        names: dict[str, list[str]] = {}
        for channel in channels:
            names.setdefault(_usual(channel), []).append(channel.name)
        return Choice("auto", "; ".join(f"{', '.join(alike)} {how}" for how, alike in names.items()))
    kinds = [{"kind": _kind(channel, channel in spoilt)} for channel in channels]
    first = spoilt[0]
    return Choice(kinds, f"{len(first.outliers)} cases have outliers in {first.name}, such as {first.outliers[0]}")


def _kind(channel: Channel, robust: bool) -> str:
    if channel.is_ct:
        return "ct"
    return ("robust" if robust else "zscore") + ("_nonzero" if 2 * channel.surrounded >= 1 else "")


def _usual(channel: Channel) -> str:
    if channel.is_ct and channel.foreground:
        lower, upper = channel.foreground[2:]
        return f"in Hounsfield units, clipped to about {lower:.0f} to {upper:.0f}, percentiles of the organs"
    around = ", its empty surrounding left out" if 2 * channel.surrounded >= 1 else ""
    return f"to mean 0 and deviation 1{around}"


def inference(dims: int, summary: Summary, batch: int) -> Choices:
    """The section `inference`."""
    small = dims == 2
    settings = {
        "overlap": (0.25, "windows of 2D images see enough by themselves") if small else (0.5, "as nnU-Net"),
        "batch_size": (batch, "windows at once"),
        "mirror_axes": ([], "a pass each; dlka predict --mirror does it along axes that training mirrored"),
    }
    return {f"inference.{key}": Choice(*pair) for key, pair in settings.items()}
