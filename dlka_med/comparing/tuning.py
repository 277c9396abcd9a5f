"""The same small search for the learning rate of each network, before any run that counts."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dlka_med.comparing.folder import Asked, ComparisonFolder
from dlka_med.comparing.runs import trained
from dlka_med.config.schema import RunConfig
from dlka_med.data.folds import read_folds, write_folds
from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.shards import claimed, lock_of
from dlka_med.text_files import read_text

FACTORS = (1.0, 1 / 3, 3.0)  # on the learning rate of the recipe; of equal ones the first wins
SHARE = 0.25  # of the limit of a run
RULE = (
    f"each network was trained with a third, one and three times the recipe's learning rate for {SHARE:.0%} of the "
    "limit, seed 0, on the training cases of the first compared fold, of which the next fold validated; the rate of "
    "the best mean Dice there is that of its runs"
)
OF_SEVERAL_FOLDS = (
    "the rates were searched for without the first compared fold alone: cases of the others took part, so that figures "
    "there may be a little too good"
)

log = logging.getLogger("dlka_med")


@dataclass(frozen=True)
class Search:
    """What was found for a network.

    Args:
        dice: mean Dice of each rate on the cases that validated; None where the training failed.
        chosen: the best rate, or that of the recipe if all failed.
    """

    dice: Mapping[str, float | None]
    chosen: float

    def __str__(self) -> str:
        rates = sorted(map(float, self.dice))
        edge = {rates[0]: ", the lowest tried", rates[-1]: ", the highest tried"}.get(self.chosen, "")
        return f"{self.chosen:g}{edge}"


def tuned(folder: ComparisonFolder, asked: Asked, configs: Mapping[str, RunConfig]) -> dict[str, RunConfig]:
    """The configs with the learning rates that the search found; it is made once and kept.

    Raises:
        InputError: there are fewer than three folds, so that none can validate the search.
        EndedEarly: somebody has ended a training; the same call goes on.
        KeyboardInterrupt: after Ctrl-C; likewise.
    """
    if not folder.tuning_file.is_file():
        _search(folder, asked, configs)
    found = read_searches(folder)
    return {name: _with_rate(config, found[name].chosen) for name, config in configs.items()}


def read_searches(folder: ComparisonFolder) -> dict[str, Search]:
    """What the search found, by network; nothing where there was none.

    Raises:
        InputError: the file is damaged.
    """
    if not folder.tuning_file.is_file():
        return {}
    try:
        return {name: Search(**one) for name, one in json.loads(read_text(folder.tuning_file))["networks"].items()}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{folder.tuning_file} is damaged ({error}): remove it, and the same command reads the rates from the "
            "trainings of the search"
        ) from error


def searched_on_compared(asked: Asked) -> bool:
    """Whether the search has seen cases that are compared."""
    return asked.tune is not None and (asked.folds is None or len(set(asked.folds)) > 1)


def _search(folder: ComparisonFolder, asked: Asked, configs: Mapping[str, RunConfig]) -> None:
    outer = min(asked.folds or (0,))
    folds_file = _inner_folds(folder, asked.networks[0], outer)
    trials: dict[tuple[str, float], RunConfig] = {}
    for factor in FACTORS:
        for name, config in configs.items():
            rate = float(f"{config.training.optimizer.learning_rate * factor:.2g}")
            trials[name, rate] = _trial(config, rate, folds_file, outer)
    log.info("learning rates are tuned first: %d trainings of %.0f %% of the limit", len(trials), 100 * SHARE)
    dice: dict[tuple[str, float], float | None] = {}
    for wait in (False, True):  # those of other processes last
        for (name, rate), config in trials.items():
            if (name, rate) not in dice:
                run = folder.trial(name, rate)
                with claimed(lock_of(run.path), wait=wait) as free:
                    if free:
                        dice[name, rate] = _dice(folder, name, rate, config)
    searches = {}
    for name, config in configs.items():
        known = {rate: dice[network, rate] for network, rate in trials if network == name}
        best = max((value for value in known.values() if value is not None), default=None)
        planned = config.training.optimizer.learning_rate
        chosen = planned if best is None else next(rate for rate, value in known.items() if value == best)
        searches[name] = Search({f"{rate:g}": value for rate, value in known.items()}, chosen)
        log.info("%s: learning rate %s", name, searches[name])
    content = {"networks": {name: asdict(one) for name, one in searches.items()}, "rule": RULE}
    with whole_file(folder.tuning_file) as file:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _inner_folds(folder: ComparisonFolder, first: str, outer: int) -> Path:
    """The folds without the one that is compared on, the one after it in front."""
    folds = read_folds(folder.folds_file(first))
    if len(folds) < 3:
        raise InputError(
            f"{folder.folds_file(first)} has {len(folds)} folds: to tune on cases that no comparison counts takes 3"
        )
    path = folder.configs / "tuning.folds.json"
    if not path.is_file():
        write_folds(path, [*folds[outer + 1 :], *folds[:outer]])
    return path.absolute()


def _trial(config: RunConfig, rate: float, folds_file: Path, outer: int) -> RunConfig:
    """A short training whose cases the compared fold has none of."""
    training, dataset = config.training, config.dataset
    kept_out = read_folds(dataset.folds)[outer]
    update = {"folds": str(folds_file), "fold": 0, "test_cases": tuple(sorted({*dataset.test_cases, *kept_out}))}
    limits = {
        "minutes": None if training.minutes is None else training.minutes * SHARE,
        "epochs": None if training.epochs is None else max(round(training.epochs * SHARE), 1),
    }
    shorter = config.model_copy(
        update={"dataset": dataset.model_copy(update=update), "training": training.model_copy(update=limits)}
    )
    return _with_rate(shorter, rate)


def _with_rate(config: RunConfig, rate: float) -> RunConfig:
    optimizer = config.training.optimizer.model_copy(update={"learning_rate": rate})
    return config.model_copy(update={"training": config.training.model_copy(update={"optimizer": optimizer})})


def _dice(folder: ComparisonFolder, name: str, rate: float, config: RunConfig) -> float | None:
    try:
        run = trained(folder.trial(name, rate), config, f"{name} with learning rate {rate:g}")
    except InputError as mistake:
        log.error("%s with learning rate %g is left out: %s", name, rate, mistake)
        return None
    said = run.weights_metadata.get("validation_dice")
    return None if said is None else float(said)
