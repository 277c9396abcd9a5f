"""One plan for all networks of a comparison."""

from dlka_med.comparing.folder import Asked, ComparisonFolder
from dlka_med.errors import InputError
from dlka_med.planning.memory import estimated_peak
from dlka_med.planning.plan import Estimate, Probe, plan
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
    if made.config.dataset.fold == "all":
        raise InputError(f"{asked.dataset} has one group of cases, so that none can validate: add cases")
    for planned in [rival(made, name, estimate) for name in others]:
        planned.save(folder.config_file(planned.config.network.name))
