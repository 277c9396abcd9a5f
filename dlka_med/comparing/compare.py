"""From a dataset and the names of networks, or a config and the variants of its network, to a fair comparison."""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from dlka_med.comparing.ablation import ablation, left_out_of, write_variants
from dlka_med.comparing.contest import plan_configs
from dlka_med.comparing.folder import Asked, ComparisonFolder, RunKey, absolute, agree_early, keys_of
from dlka_med.comparing.result import Comparison, joined
from dlka_med.comparing.runs import Outcome, outcome_of, run_all
from dlka_med.comparing.table import write
from dlka_med.comparing.tuning import tuned
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import dataset_of
from dlka_med.data.folds import Folds, read_folds
from dlka_med.data.splits import find_folds
from dlka_med.errors import InputError
from dlka_med.paths import existing
from dlka_med.planning.memory import estimated_peak
from dlka_med.planning.plan import Estimate, Probe
from dlka_med.planning.probe import probe
from dlka_med.shards import ALONE, Shard, claimed
from dlka_med.training.interruption import EndedEarly

log = logging.getLogger("dlka_med")


def compare(
    root: str | Path,
    out: str | Path,
    *,
    networks: Sequence[str],
    minutes: float | None = None,
    epochs: int | None = None,
    seeds: int = 3,
    folds: Sequence[int] | None = (0,),
    shard: Shard = ALONE,
    memory: float | None = None,
    device: str | None = None,
    clock: Literal["wall", "processor"] = "wall",
    tune: Literal["lr"] | None = None,
    workers: int | None = None,
    probe: Probe = probe,
    estimate: Estimate = estimated_peak,
) -> Comparison | None:
    """Train networks on equal terms, predict the cases that validate, and say which is better by how much.

    The first network is planned for the dataset and the budget; all others get its folds, preprocessing, patch, batch,
    augmentation, optimiser and budget, and only their own section `network`. The same call goes on where it was
    interrupted: finished runs stay, one that has begun is resumed; seeds and folds may be added. A run that fails is
    left out, and the cases that all others predicted are compared.

    Args:
        root: folder of the dataset.
        out: folder of the comparison, see `ComparisonFolder`.
        networks: names of `dlka_med.networks.NETWORKS`; the first is compared with each of the others.
        minutes, epochs: of every training; one of them.
        seeds: trainings per network and fold, with the seeds 0, 1, ...
        folds: numbers of those that validate in turn; None: all.
        shard: (i, n): of the runs only the i-th, counted from 0, and every n-th after it.
        memory: GiB that a training may take; None: most of what is free.
        device: as PyTorch names it; None: a GPU if there is one.
        clock: what the minutes are of, as `training.clock`: of a busy machine better of the processor's work.
        tune: lr: the same small search for the learning rate of each network, see `comparing.tuning`.
        workers: processes that read the cases and evaluate; None: one per core, and one.
        probe, estimate: what measures and what estimates a step of the plan.

    Returns:
        The comparison; None while runs are missing, which other processes are at work on, or if somebody ended
        one early.

    Raises:
        InputError: the dataset or an argument cannot be used, a network cannot take the patch of the plan, or the
            folder holds another comparison; before anything trains.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    chosen = None if folds is None else tuple(folds)
    asked = absolute(
        Asked(str(root), tuple(networks), minutes, epochs, memory, device, seeds, chosen, clock=clock, tune=tune)
    )
    plan_all = partial(plan_configs, workers=workers, probe=probe, estimate=estimate)
    return _compared(asked, out, plan_all, shard, workers)


def ablate(
    config: RunConfig,
    out: str | Path,
    *,
    by_stage: bool = False,
    seeds: int = 3,
    folds: Sequence[int] | None = (0,),
    shard: Shard = ALONE,
    device: str | None = None,
    tune: Literal["lr"] | None = None,
    workers: int | None = None,
) -> Comparison | None:
    """Compare a D-LKA network with variants of itself, as `compare` does, to see what its deforming is worth.

    The variants differ in `network.deformation` alone, and there in the stages that deform alone:

        as_is   the network of the config
        still   the same convolutions without offsets; not of dcnv3
        plain   plain large kernel attention, where that is another network than `still`
        wide    plain convolutions of exactly as many parameters in place of the deformable ones; not of dcnv3
        absent  no attention

    Args:
        config: of a D-LKA network, with one limit of `training.minutes` and `training.epochs`.
        out: folder of the comparison, see `ComparisonFolder`.
        by_stage: also each variant in one stage that deforms alone, such as `wide_stage_1`, counted from 0, fine to
            coarse.
        seeds, folds, shard: as in `compare`; `config.seed` and `config.dataset.fold` do not matter.
        device: as PyTorch names it; None: as `training.accelerator` says.
        tune: as in `compare`.
        workers: processes that evaluate; None: one.

    Returns:
        As `compare`.

    Raises:
        InputError: as `compare`; or the network does not deform, or could not be trained on equal terms.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    asked = ablation(config, by_stage=by_stage, seeds=seeds, folds=folds, device=device, tune=tune)
    for name, why in left_out_of(config, by_stage=by_stage).items():
        log.info("there is no variant %s: %s", name, why)
    return _compared(asked, out, write_variants, shard, workers)


def _compared(
    asked: Asked,
    out: str | Path,
    write_configs: Callable[[ComparisonFolder, Asked], None],
    shard: Shard,
    workers: int | None,
) -> Comparison | None:
    """Train and compare what the configs say, which are written at the first call and read again later."""
    folder = ComparisonFolder(Path(out).absolute())
    existing(asked.dataset, "the folder of a dataset")
    agree_early(folder, asked)
    with _whole_folder(folder):
        folder.agree(asked)
        with _no_half_plan(folder):
            if not all(folder.config_file(name).is_file() for name in asked.networks):
                write_configs(folder, asked)
            configs = folder.read_configs(asked.networks)
            first = asked.networks[0]
            keys = list(keys_of(asked, len(_folds(folder.folds_file(first), configs[first]))))
        folder.keep(asked)
    log.info("%d runs: %s", len(keys), ", ".join(asked.networks))
    try:
        if asked.tune is not None:
            configs = tuned(folder, asked, configs)
        run_all(folder, keys[shard[0] :: shard[1]], configs, asked.device)
        return _result(folder, keys, workers or 1)
    except (KeyboardInterrupt, SystemExit, EndedEarly) as end:
        log.warning("the same command goes on with the comparison in %s: what is finished stays", out)
        if isinstance(end, EndedEarly):
            return None
        raise


def _result(folder: ComparisonFolder, keys: Sequence[RunKey], workers: int) -> Comparison | None:
    """The comparison, if all runs are there."""
    with _whole_folder(folder):
        outcomes: dict[RunKey, Outcome] = {}
        for key in keys:
            if (outcome := outcome_of(folder, key)) is not None:
                outcomes[key] = outcome
        if lacking := [str(key) for key in keys if key not in outcomes]:
            log.info("all is compared when all runs are there; missing: %s", "; ".join(lacking))
            return None
        result = joined(folder, outcomes, workers)
        write(result)
        return result


def _folds(file: Path, config: RunConfig) -> Folds:
    folds, dataset, chosen = read_folds(file), dataset_of(config.dataset), config.dataset
    if find_folds(dataset, file, test_cases=chosen.test_cases, may_leak=chosen.folds_may_leak) != folds:
        raise InputError(
            f"{dataset.root} has cases that {file} does not name, so that later runs would learn from others than "
            "those before: start a new comparison in another folder"
        )
    return folds


@contextmanager
def _no_half_plan(folder: ComparisonFolder) -> Iterator[None]:
    """A new folder is left as it was found if the plan fails."""
    is_new = not folder.asked_file.is_file()
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(folder.configs, ignore_errors=True)
        raise


def _whole_folder(folder: ComparisonFolder) -> AbstractContextManager[bool]:
    return claimed(folder.lock, wait=True)
