"""The weights that a training starts from: random, pretrained, or those of another run."""

import logging
from collections.abc import Mapping, Sequence

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case
from dlka_med.errors import InputError
from dlka_med.networks import load_matching
from dlka_med.provenance import Provenance
from dlka_med.run_folder import RunFolder, build_run_network

log = logging.getLogger("dlka_med")


def first_network(config: RunConfig, held_out: Sequence[Case] = ()) -> nn.Module:
    """The network of a run before its first step; the log says where its weights come from.

    Args:
        config: its channels and labels are resolved.
        held_out: cases that must not have trained the weights to start from: those that validate or test, and
            those of their groups.

    Raises:
        InputError: the run `training.start_from` or pretrained weights cannot be had, do not fit, or have seen
            cases of `held_out`.
    """
    torch.manual_seed(config.seed)
    start = config.training.start_from
    network = build_run_network(config, pretrained=start is None)
    fresh = set(network.state_dict())
    if start is not None:
        run = RunFolder.open(start)
        refuse_seen(run, held_out)
        fresh -= _load(network, run, config)
    elif pretrained := getattr(config.network, "pretrained", False):
        source = "those of timm" if pretrained is True else pretrained
        _say("the encoder %s starts with pretrained weights: %s", config.network.encoder, source)
        fresh = {name for name in fresh if not name.startswith("encoder.")}
    else:
        _say("starting with random weights")
    if frozen := [name for name in config.training.freeze if any(each.startswith(f"{name}.") for each in fresh)]:
        _warn(
            "training.freeze: weights of %s are random and stay so: set training.start_from to a run that has them, or "
            "let them learn",
            ", ".join(frozen),
        )
    return network


def refuse_seen(run: RunFolder, held_out: Sequence[Case]) -> None:
    """Raise `InputError` if the weights of a run were trained on any of these cases; warn if perhaps."""
    provenance = Provenance.of_run(run)
    certain, possible = provenance.among(held_out)
    if certain:
        raise InputError(
            f"training.start_from: the weights in {run.path} were trained on {len(certain)} of the {len(held_out)} "
            f"cases that validate or test here (or on their group), such as {certain[0]}, so no score would mean "
            "anything: choose the dataset.fold and test_cases of that run, or dataset.fold: all, which scores nothing"
        )
    if possible:
        _warn(
            "training.start_from: the weights in %s were trained on cases with the names of %d that validate or test "
            "here, such as %s; the images differ, but if they show the same, the scores mean nothing",
            run.path,
            len(possible),
            possible[0],
        )
    if held_out and not provenance.complete:
        _warn(
            "training.start_from: nobody recorded which cases trained the weights in %s: "
            "scores mean something only if none of those that validate or test here did",
            run.path,
        )


def _load(network: nn.Module, run: RunFolder, config: RunConfig) -> set[str]:
    """Put the run's weights into the network; the names of the tensors that were set."""
    partial = config.training.start_partially
    weights = _with_our_channels(run.load_weights(), run, config)
    try:
        report = load_matching(network, weights, partial=partial)
    except ValueError as error:
        hint = "" if partial else "\nset training.start_partially to true to take what fits"
        raise InputError(f"training.start_from: the weights in {run.path} do not fit: {error}{hint}") from error
    _say("starting from %s: %s", run.path, report.summary)
    return set(report.loaded)


def _with_our_channels(weights: Mapping[str, Tensor], run: RunFolder, config: RunConfig) -> Mapping[str, Tensor]:
    """The weights with the image's channels in the order of `config`; those of other channels are refused."""
    theirs, ours = ([name.strip().casefold() for name in each.dataset.channels or ()] for each in (run.config, config))
    names = f"{list(run.config.dataset.channels or ())}, this one has {list(config.dataset.channels or ())}"
    if theirs == ours or len(theirs) != len(ours):
        return weights  # Another number of channels does not fit anyway.
    if sorted(theirs) == sorted(ours) and len(set(ours)) == len(ours):
        order = torch.tensor([theirs.index(name) for name in ours])
        axes = _image_axes(run.config)
        _say("starting from %s: its channels are %s, so its first weights are reordered", run.path, names)
        return {name: t.index_select(axes[name], order) if name in axes else t for name, t in weights.items()}
    if not config.training.start_partially:
        raise InputError(
            f"training.start_from: the channels of the run {run.path} are {names}: set dataset.channels to the names "
            "that the run has if only the names differ, or training.start_partially to true to take its weights anyway"
        )
    _say("starting from %s: its channels are %s; their weights are taken place by place", run.path, names)
    return weights


def _image_axes(config: RunConfig) -> dict[str, int]:
    """The tensors that meet the image, each with the axis that grows with the number of its channels."""
    channels = config.dataset.channels or ()
    with torch.random.fork_rng():
        few = _shapes(config, channels)
        # A network may have other layers where its widths happen to be that of the image.
        alike = [many for n in (1, 2) if (many := _shapes(config, (*channels, *"?" * n))).keys() == few.keys()]
    if not alike:
        raise InputError(
            "training.start_from: the channels of this network's image cannot be reordered: name them in the order "
            f"{list(channels)} in dataset.channels, and order the files so"
        )
    return {
        name: axis
        for name, shape in few.items()
        for axis, (size, more) in enumerate(zip(shape, alike[0][name], strict=True))
        if size != more
    }


def _shapes(config: RunConfig, channels: Sequence[str]) -> dict[str, tuple[int, ...]]:
    dataset = config.dataset.model_copy(update={"channels": tuple(channels)})
    network = build_run_network(config.model_copy(update={"dataset": dataset}), pretrained=False)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@rank_zero_only
def _say(*words: object) -> None:
    log.info(*words)


@rank_zero_only
def _warn(*words: object) -> None:
    log.warning(*words)
