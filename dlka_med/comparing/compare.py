"""From a dataset and the names of networks to a fair comparison of them."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dlka_med.comparing.contest import configs_of
from dlka_med.comparing.folder import Asked, ComparisonFolder, RunKey, absolute, keys_of
from dlka_med.comparing.result import Comparison, joined
from dlka_med.comparing.runs import Outcome, outcome_of, run_all
from dlka_med.comparing.table import write
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import dataset_of
from dlka_med.data.folds import Folds, read_folds
from dlka_med.data.splits import find_folds
from dlka_med.errors import InputError
from dlka_med.paths import existing
from dlka_med.planning.memory import estimated_peak
from dlka_med.planning.plan import Estimate, Probe
from dlka_med.planning.probe import probe
from dlka_med.training.shards import ALONE, Shard, claimed, lock_of

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
        workers: processes that read the cases and evaluate; None: one per core, and one.
        probe, estimate: what measures and what estimates a step of the plan.

    Returns:
        The comparison; None while runs are missing, which other processes are at work on.

    Raises:
        InputError: the dataset or an argument cannot be used, a network cannot take the patch of the plan, or the
            folder holds another comparison; before anything trains.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    folder = ComparisonFolder(Path(out).absolute())
    chosen = None if folds is None else tuple(folds)
    asked = absolute(Asked(str(root), tuple(networks), minutes, epochs, memory, device, seeds, chosen))
    existing(root, "the folder of a dataset")
    folder.agree(asked)
    with _whole_folder(folder):
        folder.agree(asked)
        with _no_half_plan(folder):
            configs = configs_of(folder, asked, workers=workers, probe=probe, estimate=estimate)
            folds_there = _folds(folder.folds_file(networks[0]), configs[networks[0]])
            keys = list(keys_of(asked, len(folds_there)))
        folder.keep(asked)
    log.info("%d runs of %d networks", len(keys), len(networks))
    try:
        run_all(folder, keys[shard[0] :: shard[1]], configs, device)
        return _result(folder, keys, workers or 1)
    except (KeyboardInterrupt, SystemExit):
        log.warning("the same command goes on with the comparison in %s: what is finished stays", out)
        raise


def _result(folder: ComparisonFolder, keys: Sequence[RunKey], workers: int) -> Comparison | None:
    """The comparison, if all runs are there."""
    with _whole_folder(folder):
        outcomes: dict[RunKey, Outcome] = {}
        for key in keys:
            if (outcome := outcome_of(folder, key)) is not None:
                outcomes[key] = outcome
        if lacking := [str(key) for key in keys if key not in outcomes]:
            log.info("networks are compared when all runs are there; missing: %s", "; ".join(lacking))
            return None
        result = joined(folder, outcomes, workers)
        write(result)
        return result


def _folds(file: Path, config: RunConfig) -> Folds:
    folds, dataset = read_folds(file), dataset_of(config.dataset)
    if find_folds(dataset, file) != folds:
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
    return claimed(lock_of(folder.path / "all"), wait=True)
