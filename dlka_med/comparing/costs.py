"""What a network costs: parameters, multiply-adds, seconds."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dlka_med.comparing.runs import Outcome
from dlka_med.config.schema import RunConfig
from dlka_med.ops.multiply_adds import multiply_adds
from dlka_med.planning.memory import estimated_peak
from dlka_med.run_folder import RunFolder, build_run_network
from dlka_med.text_files import read_text


@dataclass(frozen=True)
class Costs:
    """Of one network; None where it was not measured.

    Args:
        multiply_adds: of a forward pass of one patch.
        estimated_peak_bytes: that a training step holds, as `dlka_med.planning.memory.estimated_peak` has it.
        seconds_per_step: of training, without validations; mean over runs.
        steps: that were done; mean over runs.
        seconds_per_case: of prediction, loading included; mean over cases.
    """

    parameters: int
    multiply_adds: int
    estimated_peak_bytes: int
    seconds_per_step: float | None
    steps: float
    seconds_per_case: float | None


def costs_of(config: RunConfig, runs: Sequence[RunFolder], outcomes: Sequence[Outcome]) -> Costs:
    """The costs of a network by the files of its runs.

    Args:
        config: with the names of channels and labels.
        runs, outcomes: of the network, those that were not left out.
    """
    network = build_run_network(config, pretrained=False)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    pace = [pace_of(run) for run in runs]
    timed = [seconds for _, seconds in pace if seconds is not None]
    on_gpu = config.training.accelerator != "cpu" and torch.cuda.is_available()
    cases = sum(outcome.cases for outcome in outcomes)
    return Costs(
        parameters,
        multiply_adds(network, 1, len(config.dataset.channels or ()), *config.training.patch_size),
        round(estimated_peak(config, "cuda" if on_gpu else "cpu")),
        statistics.fmean(timed) if timed else None,
        statistics.fmean(steps for steps, _ in pace),
        sum(outcome.seconds for outcome in outcomes) / cases if cases else None,
    )


def pace_of(run: RunFolder) -> tuple[int, float | None]:
    """Steps of a run, and seconds per step by its clock, which starts after the first step; None of a single one."""
    rows = list(csv.DictReader(io.StringIO(read_text(run.metrics_file), newline="")))
    steps = int(rows[-1]["step"])
    validating = sum(float(row["validation_seconds"]) for row in rows if row.get("validation_seconds"))
    training = 60 * float(rows[-1]["minutes"]) - validating
    return steps, max(training, 0.0) / (steps - 1) if steps > 1 else None
