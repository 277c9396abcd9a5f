"""Another network on a grid that is planned already, to be compared with the first."""

from dataclasses import replace

from dlka_med.config.loading import NETWORKS
from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.planning import rules_grid
from dlka_med.planning.choice import gib, nested
from dlka_med.planning.memory import estimated_peak, kept_free
from dlka_med.planning.plan import Estimate, Plan
from dlka_med.planning.rules_network import network, sizes
from dlka_med.planning.rules_training import offset_reason


def rival(made: Plan, name: str, estimate: Estimate = estimated_peak) -> Plan:
    """The plan with another network, of the largest of its sizes that fits; nothing but section and name differ.

    Its strides follow from the patch that is planned, and so do norms from the batch. Its step is estimated, not tried.

    Args:
        name: a name of `dlka_med.networks.NETWORKS`.

    Raises:
        InputError: the network sees images where the plan has volumes or the reverse, cannot take the patch, or needs
            more memory than the budget has.
    """
    draft, config, budget = made.trials[-1].draft, made.config, made.budget
    dims, patch = draft.data.dims, config.training.patch_size
    own = rules_grid.own_dims(name)
    if own not in (None, dims):
        raise InputError(
            f"{name} sees {own}D images, but {config.network.name} is planned in {dims}D here: leave one of them away"
        )
    grid = config.preprocessing.spacing or draft.data.full.value or (1.0,) * draft.data.summary.dims
    spacing = [grid[axis] for axis in draft.data.axes]
    strides = rules_grid.stage_strides(patch, spacing, rules_grid.DOWNSAMPLING[name])
    room = budget.memory - kept_free(budget, config.training.workers)
    need = 0.0
    for size in sizes(name, dims, draft.is_long and budget.on_gpu):
        same_batch = size._replace(batch=config.training.batch_size)
        choices = network(name, dims, same_batch, strides, draft.is_long)
        section = {"name": name} | nested(choices)["network"]
        try:
            NETWORKS[name].model_validate(section).check_patch(patch, config.training.batch_size)
        except ValueError as error:
            raise InputError(f"{name} cannot be compared on patches of {list(patch)} voxels: {error}") from error
        of_both = {"name": config.name.removesuffix(config.network.name) + name, "network": section}
        candidate = RunConfig.model_validate(config.model_dump() | of_both)
        resolved = candidate.model_copy(update={"dataset": draft.resolved.dataset})
        need = estimate(resolved, budget.device)
        if need <= room:
            return _replaced(made, candidate, {key: choice.reason for key, choice in choices.items()})
    raise InputError(
        f"{name} does not fit into {gib(budget.memory)} on patches of {list(patch)} voxels: it takes about "
        f"{gib(need)}; give more with --memory, or leave it away"
    )


def _replaced(made: Plan, config: RunConfig, reasons: dict[str, str]) -> Plan:
    kept = {key: reason for key, reason in made.reasons.items() if not key.startswith("network.")}
    first = made.config.network.name
    other = {
        "network.name": f"to be compared with {first}",
        "training.patch_size": f"that of {first}",
        "training.optimizer.offset_rate": offset_reason("offset_limit" in type(config.network).model_fields),
    }
    return replace(
        made,
        config=config,
        reasons=kept | other | reasons,
        trials=(),
        outlook=(f"all but the section network is as for {first}",),
    )
