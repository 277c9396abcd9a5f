"""One plan for all networks of a comparison."""

from dataclasses import replace

from dlka_med.comparing.folder import Asked, ComparisonFolder
from dlka_med.comparing.weights import WHY, validating_once
from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.planning.memory import estimated_peak
from dlka_med.planning.plan import Estimate, Plan, Probe, plan
from dlka_med.planning.probe import probe
from dlka_med.planning.rival import rival


def plan_configs(
    folder: ComparisonFolder,
    asked: Asked,
    *,
    workers: int | None = None,
    probe: Probe = probe,
    estimate: Estimate = estimated_peak,
) -> None:
    """Write the config of each network into the folder.

    The first network is planned for the dataset and the budget; the others get its grid, patch, batch and recipe.

    Raises:
        InputError: as in `plan` and `rival`, before anything is written but the plan of the first; or nothing can
            validate.
    """
    first, *others = asked.networks
    made = plan(
        asked.dataset,
        folder.config_file(first),
        network=first,
        minutes=asked.minutes,
        epochs=asked.epochs,
        memory=asked.memory,
        device=asked.device,
        workers=workers,
        probe=probe,
        estimate=estimate,
    )
    made = _validated_once(_timed(made, asked))
    if made.config.dataset.fold == "all":
        raise InputError(f"{asked.dataset} has one group of cases, so that none can validate: add cases")
    rivals = [rival(made, name, estimate) for name in others]
    for planned in [made, *rivals]:
        planned.save(folder.config_file(planned.config.network.name))


def _timed(made: Plan, asked: Asked) -> Plan:
    """The plan by the clock that is asked for.

    Raises:
        InputError: the training is on a GPU, of which the processor's work tells nothing.
    """
    if asked.clock == "wall":
        return made
    training = made.config.training.model_dump() | {"clock": asked.clock}
    try:
        config = RunConfig.model_validate(made.config.model_dump() | {"training": training})
    except ValueError as error:
        raise InputError(f"--clock {asked.clock} cannot be used on {made.budget.device}: {error}") from error
    return replace(made, config=config, reasons=made.reasons | {"training.clock": "asked for"})


def _validated_once(made: Plan) -> Plan:
    reasons = made.reasons | {"training.validate_every": WHY}
    return replace(made, config=validating_once(made.config), reasons=reasons)
