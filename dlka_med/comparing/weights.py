"""Which weights of a training are compared: those of its end, chosen by nothing."""

from collections.abc import Iterable

from dlka_med.config.schema import RunConfig

NEVER_BEFORE = 10**6  # epochs, of which no training has so many
WHY = "once, at the end: no weights are chosen on the cases that are compared"
OF_THE_END = "the weights of each run are those of its end: none were chosen on these cases"
CHOSEN = (
    "the weights of each run are those that validated best on these cases, so that figures are a little too good, "
    "of networks that validated more often more so"
)


def validating_once(config: RunConfig) -> RunConfig:
    """The config with a single validation, when the training ends: a run keeps the weights that validate best."""
    training = config.training
    every = training.epochs or NEVER_BEFORE
    return config.model_copy(update={"training": training.model_copy(update={"validate_every": every})})


def rule_of(configs: Iterable[RunConfig]) -> str:
    """What is to be said of the weights of runs, of which those of earlier comparisons were chosen."""
    return OF_THE_END if all(config == validating_once(config) for config in configs) else CHOSEN
