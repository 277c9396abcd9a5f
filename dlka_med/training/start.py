"""Weights of another run to start from."""

import logging

from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from dlka_med.config.training import Training
from dlka_med.errors import InputError
from dlka_med.networks import load_matching
from dlka_med.run_folder import RunFolder

log = logging.getLogger("dlka_med")


def start_from_run(network: nn.Module, training: Training) -> None:
    """Put the weights of the run `training.start_from` into the network; log what matched and what did not.

    Raises:
        InputError: there is no such run, it has no weights, or they do not fit.
    """
    if training.start_from is None:
        return
    run = RunFolder.open(training.start_from)
    try:
        report = load_matching(network, run.load_weights(), partial=training.start_partially)
    except ValueError as error:
        hint = "" if training.start_partially else "\nset training.start_partially to true to take what fits"
        raise InputError(f"training.start_from: the weights in {run.path} do not fit: {error}{hint}") from error
    if rank_zero_only.rank == 0:
        log.info("starting from %s: %s", run.path, report.summary)
