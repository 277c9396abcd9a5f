"""What a network costs and sees: its sizes, its stages, its field, its times on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlka_med.inference.device import find_device
from dlka_med.inspection.parts import by_type, stages
from dlka_med.inspection.receptive import gradient, longest_strip, reach_of_offsets, theoretical_field, widths
from dlka_med.inspection.strides import strides_of_layers
from dlka_med.inspection.subject import Subject, find_subject
from dlka_med.inspection.timing import time_prediction, time_training, told
from dlka_med.networks import load_matching
from dlka_med.ops.multiply_adds import work_of_modules
from dlka_med.planning.memory import activations
from dlka_med.run_folder import build_run_network


def describe(
    what: str | Path,
    *,
    patch: Sequence[int] | None = None,
    channels: int | None = None,
    classes: int | None = None,
    device: str | None = None,
    timed: bool = True,
) -> dict[str, Any]:
    """Everything that `dlka info` tells, as plain data for JSON.

    Args:
        what: a run folder, the YAML file of a config, or a name of `dlka_med.networks.NETWORKS`.
        patch, channels, classes: see `find_subject`.
        device: on which it is timed; None: cuda where there is one.
        timed: False: nothing is timed, for machines that are busy.

    Raises:
        InputError: see `find_subject`; or the network cannot be built, or there is no room for one window.
    """
    place = find_device(device)
    subject = find_subject(what, patch=patch, channels=channels, classes=classes)
    config, network = subject.config, _network(subject)
    window = config.training.patch_size
    work = work_of_modules(_fresh(subject), 1, subject.channels, *window)
    types = by_type(network, work)
    prediction = {}
    if timed:
        # First of all, since a window fits into what the process has held before; it brings a network to the device.
        cases = () if subject.dataset is None else (*subject.dataset.cases, *subject.dataset.test)
        prediction["prediction"] = time_prediction(_network(subject), config, place, cases)
    content: dict[str, Any] = {
        "kind": subject.kind,
        "name": subject.name,
        "network": config.network.name,
        "window": list(window),
        "channels": subject.channels,
        "outputs": config.dataset.scheme.outputs,
        "device": str(place),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds": sum(types.values()),
        "multiply_adds_by_type": types,
        "stages": [asdict(stage) for stage in stages(network, work)],
        "receptive_field": _field(subject, network),
        "activations_of_window": activations(config, str(place), training=False),
        "training": told(time_training(config, place, timed=timed)),
    }
    return content | prediction


def _network(subject: Subject) -> nn.Module:
    """With the weights of the run if there are any; otherwise fresh ones, the same at every call."""
    if subject.run is None:
        return _fresh(subject)
    if subject.config.training.patch_size == subject.run.config.training.patch_size:
        return subject.run.load_network()
    # Another window has another position embedding.
    network = _fresh(subject)
    load_matching(network, subject.run.load_weights(), partial=True)
    return network


def _fresh(subject: Subject) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subject.config.seed)
        return build_run_network(subject.config, pretrained=False).eval()


def _field(subject: Subject, network: nn.Module) -> dict[str, Any]:
    window, unit = subject.config.training.patch_size, tuple(network.size_unit)
    fixed = theoretical_field(_fresh(subject), subject.channels, unit)
    noise = torch.randn(subject.channels, *window, generator=torch.Generator().manual_seed(0))
    strides = strides_of_layers(network, noise[None])
    reach = reach_of_offsets(network, strides, len(window))
    wider = [None if n is None or more is None else math.floor(n + more) for n, more in zip(fixed, reach, strict=True)]
    middle = [size // 2 for size in window]
    found = gradient(network, noise, middle, subject.config.dataset.scheme.outputs - 1)
    return {
        "theoretical": fixed,
        "tried": longest_strip(unit),
        "with_offsets_at_most": wider if strides else None,
        "measured": widths(found, middle),
        "weights": "trained" if subject.run is not None else "fresh",
    }
