"""What training and predicting take on this machine: measured in a few steps and windows, then reckoned up."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case
from dlka_med.errors import InputError
from dlka_med.inference.budget import Budget
from dlka_med.inference.predictor import Predictor
from dlka_med.planning.choice import TRAINING_SHARE
from dlka_med.planning.memory import activations, estimated_peak, free_memory
from dlka_med.planning.probe import probe
from dlka_med.planning.rules_training import pace

HEADERS = 25  # of cases that are read, evenly over the dataset


@dataclass(frozen=True)
class Training:
    """What the config's training takes here.

    Args:
        activations: bytes of tensors that a step makes and holds at its peak.
        estimated_peak: bytes that a step holds, as `estimated_peak` has it.
        measured_peak, seconds_per_step: of a few steps of full size; None: they were not made, see `why_not`.
        waited: share of the processor's time that other programs took meanwhile.
        steps, minutes: of the whole training, by the limit of the config, growing patches considered.
    """

    activations: float
    estimated_peak: float
    measured_peak: float | None = None
    seconds_per_step: float | None = None
    waited: float | None = None
    steps: int | None = None
    minutes: float | None = None
    why_not: str | None = None


def time_training(config: RunConfig, device: torch.device, *, timed: bool = True) -> Training:
    """The memory of a step, and if `timed` a few of them.

    Args:
        config: with channels and labels.
    """
    name = str(device)
    held, estimate = activations(config, name), estimated_peak(config, name)
    if not timed:
        return Training(held, estimate, why_not="not asked for")
    if estimate > free_memory(name):
        return Training(held, estimate, why_not="a step needs more memory than is free")
    measured = probe(config, name)
    if measured.failed:
        return Training(held, estimate, why_not=measured.failed)
    training = config.training
    faster = pace(len(training.patch_size), training.growing, ends_by_time=training.minutes is not None)
    each = measured.seconds / faster
    steps = [] if training.epochs is None else [training.epochs * training.steps_per_epoch]
    if training.minutes is not None:
        steps.append(int(60 * TRAINING_SHARE * training.minutes / each))
    minutes = min(steps) * each / 60 / TRAINING_SHARE
    return Training(held, estimate, measured.peak, measured.seconds, measured.waited, min(steps), minutes)


def time_prediction(
    network: nn.Module, config: RunConfig, device: torch.device, cases: Sequence[Case] = ()
) -> dict[str, Any]:
    """One window, and from it what the cases take, by the headers of some of them.

    Raises:
        InputError: there is no room for a window.
    """
    budget = Budget(Predictor.of_config(network, config, device=device), config)
    found = {"seconds_per_window": budget.window.seconds, "bytes_per_window": budget.window.bytes}
    some = cases[:: -(-len(cases) // HEADERS)] if cases else ()
    extents = [extent for case in some if (extent := budget.expected(case)) is not None]
    if not extents:
        return found
    seconds, peaks = [budget.seconds(extent) for extent in extents], []
    for extent in extents:
        try:
            peaks.append(budget.peak(extent, budget.load(extent)))
        except InputError:
            continue  # too large for what is free
    return found | {
        "cases": len(cases),
        "windows_per_case": statistics.median(extent.layout.count for extent in extents),
        "seconds_per_case": statistics.median(seconds),
        "slowest_case": max(seconds),
        "seconds_of_all": statistics.fmean(seconds) * len(cases),
        "peak_of_process": max(peaks, default=None),
    }


def told(training: Training) -> dict[str, Any]:
    """The content of JSON."""
    return {name: value for name, value in asdict(training).items() if value is not None}
