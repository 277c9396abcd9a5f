"""A checkpoint of the authors' code becomes an ordinary run folder."""

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from dlka_med.config.labels import Declared
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Dataset, dataset_of, with_names
from dlka_med.data.description import labels_and_order
from dlka_med.data.intensity import is_resolved, named_intensity, resolve_intensity
from dlka_med.data.prepare import measure_case
from dlka_med.data.splits import split_cases
from dlka_med.data.workers import in_workers
from dlka_med.errors import InputError
from dlka_med.files import refuse_existing, whole_folder
from dlka_med.networks import DLKANet3d, LoadReport, load_original
from dlka_med.networks.weight_file import read_weights
from dlka_med.paths import could_hold_files
from dlka_med.progress import progress
from dlka_med.run_folder import PARTS, RunFolder, build_run_network

AXES = ((0, 1, 2), (2, 1, 0))  # slices first, as the authors have them, or last
STEM = "d_lka_former_encoder.downsample_layers.0.0.conv.weight"


def import_weights(
    file: str | Path, config: RunConfig, out: str | Path, *, partial: bool = False
) -> tuple[RunFolder, LoadReport]:
    """Make the run folder `out` of an original checkpoint and a config that describes its network.

    What the config leaves open, names of channels and labels and CT statistics, is read from `dataset.root`. A 3D
    config whose first stride has the slices last gets the kernels turned that way. The split stays empty, since
    nobody knows here which cases the checkpoint was trained on. Class k of the weights is the k-th label value.
    Offsets have no limit, as in the original.

    Args:
        file: of the authors (`.model`, `.pth`), opened without running code that it may hold.
        config: its network has to be that of the checkpoint.
        out: must not exist, or be an empty folder.
        partial: keep what fits of a checkpoint of other classes, channels or sizes; the rest stays random.

    Raises:
        InputError: the file, the config, the dataset or the folder cannot be used; nothing is written.
    """
    refuse_existing(could_hold_files(out))
    try:
        weights = read_weights(file)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(str(error)) from error
    config = _without_limit(_resolved(config))
    network = build_run_network(config, pretrained=False)
    try:
        report = load_original(network, weights, partial=partial, axes=_axes(network, weights))
    except ValueError as error:
        hint = "" if partial else "\n--partial keeps what fits"
        raise InputError(f"{file} does not fit the network of the config {config.name}: {error}{hint}") from error
    with whole_folder(out) as folder:
        run = RunFolder.create(folder, config, {part: () for part in PARTS})
        run.save_weights(network.state_dict(), {"imported": Path(file).name, "complete": report.complete})
    return RunFolder.open(out), report


def _without_limit(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"network": config.network.model_copy(update={"offset_limit": None})})


def _axes(network: nn.Module, weights: dict[str, Any]) -> tuple[int, ...]:
    """The order of the original's axes in which its first stride is that of the network; else the original's own."""
    kernels = [tuple(value.shape[2:]) for name, value in weights.items() if name.endswith(STEM)]
    if isinstance(network, DLKANet3d) and kernels and len(kernels[0]) == 3:
        for axes in AXES:
            if tuple(kernels[0][axis] for axis in axes) == network.strides[0]:
                return axes
    return AXES[0]


def _resolved(config: RunConfig) -> RunConfig:
    """The config with all that predicting needs, of which the dataset is asked only what is missing."""
    dataset: Dataset | None = None
    if config.dataset.labels is not None:
        _check_order(config.dataset.labels)
    if config.dataset.channels is None or config.dataset.labels is None:
        dataset = _dataset(config, "dataset.channels or dataset.labels")
        config = config.model_copy(update={"dataset": with_names(config.dataset, dataset)})
    channels, labels = config.dataset.channels or (), config.dataset.scheme
    intensity = named_intensity(config.preprocessing, channels)
    if not all(map(is_resolved, intensity)):
        dataset = dataset or _dataset(config, "preprocessing.intensity of a CT channel")
        asked = config.dataset
        split = split_cases(
            dataset, asked.folds, asked.fold, test_cases=asked.test_cases, may_leak=asked.folds_may_leak
        )
        cases = [case for case in dataset.cases if case.id in split.train]
        look = partial(measure_case, channels=channels, labels=labels)
        measured = [*in_workers(look, cases, config.training.workers, progress("measuring intensities"))]
        intensity = resolve_intensity(config.preprocessing, channels, measured)
    preprocessing = config.preprocessing.model_copy(update={"intensity": intensity})
    return config.model_copy(update={"preprocessing": preprocessing})


def _check_order(labels: Declared) -> None:
    ascending, _ = labels_and_order(Path("dataset.json"), {}, labels)
    if list(labels) != list(ascending):
        raise InputError(
            f"dataset.labels: {labels} is not in ascending order, but class k of the weights is the k-th value: "
            "number them 0, 1, 2 ... in the order of the weights"
        )


def _dataset(config: RunConfig, what: str) -> Dataset:
    try:
        return dataset_of(config.dataset)
    except InputError as error:
        raise InputError(
            f"the config leaves {what} to the dataset, which cannot be read: {error}\n"
            "set dataset.root, or the values themselves, for example -s dataset.channels='[CT]'"
        ) from error
