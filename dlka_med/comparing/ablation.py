"""Variants of one D-LKA network, alike but for what stands in place of its deformable convolutions."""

from collections.abc import Sequence

from dlka_med.comparing.folder import Asked, ComparisonFolder
from dlka_med.comparing.weights import validating_once
from dlka_med.config.loading import save_config
from dlka_med.config.network import DLKANet2dArguments, DLKANet3dArguments, DLKAUNetArguments
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import dataset_of
from dlka_med.data.folds import write_folds
from dlka_med.data.splits import find_folds
from dlka_med.errors import InputError
from dlka_med.training.resume import with_absolute_paths

AS_IS = "as_is"
DEFORMING = ("dense", "depthwise", "dcnv3")
REPLACED_BY = {
    "still": {"dense": "still_dense", "depthwise": "none"},
    "plain": dict.fromkeys(DEFORMING, "none"),
    "wide": {"dense": "wide_dense", "depthwise": "wide_depthwise"},
    "absent": dict.fromkeys(DEFORMING, "absent"),
}
"""Of each variant, what `network.deformation` becomes in a stage that deforms."""


def ablation(
    config: RunConfig,
    *,
    by_stage: bool = False,
    seeds: int = 3,
    folds: Sequence[int] | None = (0,),
    device: str | None = None,
    tune: str | None = None,
) -> Asked:
    """What is compared if the deformable convolutions of a config's network are taken away.

    Args:
        config: of a D-LKA network; its fold and seed do not matter.
        by_stage, seeds, folds, device, tune: as in `dlka_med.comparing.compare.ablate`.

    Raises:
        InputError: the network does not deform, not one limit ends its training, or variants could not be trained on
            equal terms.
    """
    config, training = with_absolute_paths(config), config.training
    if not isinstance(config.network, DLKANet2dArguments | DLKANet3dArguments | DLKAUNetArguments):
        raise InputError(
            f"{config.name}: network.name is {config.network.name}, which has no deformable convolutions to ablate: "
            "give a config of dlka_net_3d, dlka_net_2d or dlka_unet"
        )
    if not set(_gates(config)) & set(DEFORMING):
        raise InputError(
            f"{config.name}: network.deformation is {', '.join(dict.fromkeys(_gates(config)))}, so that there is "
            f"nothing to ablate: give a config with {', '.join(DEFORMING[:-1])} or {DEFORMING[-1]} in a stage"
        )
    if training.minutes is not None and training.epochs is not None:
        raise InputError(
            f"{config.name}: training.minutes is {training.minutes:g} and training.epochs {training.epochs}: give one "
            "limit with --minutes or --epochs, or set the other to null"
        )
    if training.start_from is not None:
        raise InputError(
            f"{config.name}: training.start_from gives the network as it is a start that its variants cannot have: "
            "set it to null"
        )
    if training.devices * training.nodes > 1:
        raise InputError(
            f"{config.name}: variants are trained on one device each: set training.devices and training.nodes to 1, "
            "and share the runs out with --shard"
        )
    dataset = config.dataset.model_copy(update={"fold": 0})
    config = config.model_copy(update={"seed": 0, "dataset": dataset})
    if device is not None:
        accelerator = device.partition(":")[0]
        update = {"accelerator": accelerator if accelerator in ("cpu", "cuda") else "auto"}
        config = config.model_copy(update={"training": training.model_copy(update=update)})
    names = tuple(variants_of(config, by_stage=by_stage))
    chosen = None if folds is None else tuple(folds)
    limits = (training.minutes, training.epochs)
    return Asked(dataset.root, names, *limits, device=device, seeds=seeds, folds=chosen, ablated=config, tune=tune)


def variants_of(config: RunConfig, *, by_stage: bool = False) -> dict[str, RunConfig]:
    """The config as it is, and with other gates in the stages that deform, by the names of the variants.

    Args:
        by_stage: also with other gates in one of these stages alone.
    """
    gates, _ = _variants(config, by_stage)
    return {name: config if name == AS_IS else _with_gates(config, chosen) for name, chosen in gates.items()}


def left_out_of(config: RunConfig, *, by_stage: bool = False) -> dict[str, str]:
    """The variants that `variants_of` lacks, and why."""
    return _variants(config, by_stage)[1]


def write_variants(folder: ComparisonFolder, asked: Asked) -> None:
    """Write the config of each variant into the folder, and beside the first the folds of all, unless they are there.

    Raises:
        InputError: the dataset cannot be read, or its folds cannot be dealt.
    """
    config, folds_file = asked.ablated, folder.folds_file(AS_IS)
    chosen = config.dataset
    if not folds_file.is_file():
        asked_folds = {"test_cases": chosen.test_cases, "may_leak": chosen.folds_may_leak}
        write_folds(folds_file, find_folds(dataset_of(chosen), chosen.folds, **asked_folds))
    variants = variants_of(validating_once(config), by_stage=True)
    for name in asked.networks:
        save_config(variants[name], folder.config_file(name))


def _gates(config: RunConfig) -> tuple[str, ...]:
    """What deforms in each stage, fine to coarse."""
    chosen = config.network.deformation
    return (chosen,) * len(config.network.depths) if isinstance(chosen, str) else chosen


def _with_gates(config: RunConfig, gates: Sequence[str]) -> RunConfig:
    network = config.network.model_copy(update={"deformation": tuple(gates)})
    return config.model_copy(update={"network": network})


def _variants(config: RunConfig, by_stage: bool) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The gates of each variant, and why others are left out."""
    gates = _gates(config)
    deforming = [stage for stage, gate in enumerate(gates) if gate in DEFORMING]
    places = {"": deforming}
    if by_stage:
        places |= {f"_stage_{stage}": [stage] for stage in deforming}
    made, left_out = {AS_IS: gates}, {}
    for place, stages in places.items():
        for variant, replaced_by in REPLACED_BY.items():
            name = f"{variant}{place}"
            if lacking := [gates[stage] for stage in stages if gates[stage] not in replaced_by]:
                left_out[name] = f"{lacking[0]} has no such counterpart"
                continue
            varied = tuple(replaced_by[gate] if stage in stages else gate for stage, gate in enumerate(gates))
            if twins := [other for other, its in made.items() if its == varied]:
                left_out[name] = f"it is the same network as {twins[0]}"
            else:
                made[name] = varied
    return made, left_out
