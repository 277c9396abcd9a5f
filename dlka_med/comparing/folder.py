"""The layout of a comparison, and what it was asked for."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dlka_med.config.loading import load_config
from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.files import refuse_existing, whole_file
from dlka_med.paths import could_hold_files
from dlka_med.run_folder import RunFolder
from dlka_med.shards import claimed, lock_of
from dlka_med.text_files import read_text
from dlka_med.training.resume import flat


class RunKey(NamedTuple):
    """One training of a comparison."""

    network: str
    seed: int
    fold: int

    def __str__(self) -> str:
        return f"{self.network}, seed {self.seed}, fold {self.fold}"


@dataclass(frozen=True)
class Asked:
    """What is compared, and on what terms; `seeds` and `folds` may grow later, nothing else may change.

    Args:
        networks: their names; of an ablation those of its variants.
        seeds: how many; they are numbered from 0.
        folds: None: all.
        ablated: the config that the variants of an ablation are of; None: networks are planned for the dataset.
        clock: what the minutes are of, as `training.clock`.
        tune: "lr": the learning rate of each is searched for, see `dlka_med.comparing.tuning`.

    Raises:
        InputError: fewer than two networks, one of them twice, no seed, no fold, not one limit of time, or a
            clock without minutes.
    """

    dataset: str
    networks: tuple[str, ...]
    minutes: float | None = None
    epochs: int | None = None
    memory: float | None = None
    device: str | None = None
    seeds: int = 3
    folds: tuple[int, ...] | None = (0,)
    ablated: RunConfig | None = None
    clock: str = "wall"
    tune: str | None = None

    def __post_init__(self):
        if len(set(self.networks)) < max(len(self.networks), 2):
            raise InputError(f"a comparison needs two different networks or more, got {', '.join(self.networks)}")
        if (self.minutes is None) == (self.epochs is None):
            raise InputError("a comparison needs one limit, --minutes or --epochs: all networks get the same")
        if self.clock == "processor" and self.minutes is None:
            raise InputError("--clock processor is of --minutes: leave it away with --epochs")
        if self.seeds < 1 or self.folds == ():
            raise InputError("a comparison needs a seed and a fold at least")

    def refuse_other(self, before: "Asked", where: Path) -> None:
        """Raise `InputError` if the comparison that is there was asked otherwise, or for more."""
        all_there, all_here = before._terms(), self._terms()
        for name in all_here | all_there:
            there, here = all_there.get(name), all_here.get(name)
            if there != here:
                raise InputError(
                    f"{where} holds another comparison: {name} is {_words(there)} there and {_words(here)} here; ask "
                    "for the same, or name another folder"
                )
        if self.seeds < before.seeds:
            raise InputError(f"{where} compares {before.seeds} seeds already: ask for as many or more")
        if self.folds is not None and (before.folds is None or not set(before.folds) <= set(self.folds)):
            had = "all folds" if before.folds is None else f"the folds {_words(before.folds)}"
            raise InputError(f"{where} compares {had} already: ask for these, or for more")

    def _terms(self) -> dict[str, Any]:
        """What may not change, by the names of options and keys."""
        names = ["dataset", "networks", "minutes", "epochs", "memory", "device", "clock"]
        names.append("tune")
        if self.ablated is None:
            return {"ablate": None} | {name: getattr(self, name) for name in names}
        settings = flat(self.ablated.model_dump())
        return {
            "ablate": self.ablated.name,
            **settings,
            "variants": self.networks,
            "device": self.device,
            "tune": self.tune,
        }


@dataclass(frozen=True)
class ComparisonFolder:
    """A folder made by a comparison.

    comparison.json                          what was asked for
    configs/NETWORK.yaml                     alike but for the section network; folds and facts of the data beside them;
                                             of an ablation each variant stands for a network
    tuning/NETWORK/rate_0.006                short trainings of a search for the rate; tuning.json: what it found
    runs/NETWORK/seed_0/fold_0               a run each, beside it fold_0.json: what it predicted, in which time
    predictions/NETWORK/seed_0               label maps of the cases that validate
    compare.json, compare.csv, compare.png   the result; scores.csv has a row per network, seed, case and label
    """

    path: Path

    @property
    def lock(self) -> Path:
        """Held by who plans or evaluates."""
        return lock_of(self.path / "all")

    @property
    def asked_file(self) -> Path:
        return self.path / "comparison.json"

    @property
    def tuning_file(self) -> Path:
        return self.path / "tuning.json"

    @property
    def result_file(self) -> Path:
        return self.path / "compare.json"

    @property
    def table_file(self) -> Path:
        return self.path / "compare.csv"

    @property
    def scores_file(self) -> Path:
        return self.path / "scores.csv"

    @property
    def figure_file(self) -> Path:
        return self.path / "compare.png"

    @property
    def configs(self) -> Path:
        return self.path / "configs"

    def config_file(self, network: str) -> Path:
        """The config of a network, for fold 0 and seed 0."""
        return self.configs / f"{network}.yaml"

    def folds_file(self, first: str) -> Path:
        """The folds of all networks, which were dealt for the first one."""
        return self.config_file(first).with_suffix(".folds.json")

    def read_configs(self, networks: Sequence[str]) -> dict[str, RunConfig]:
        """The config of each network, with the file of folds where it lies now."""
        folds = str(self.folds_file(networks[0]).absolute())
        configs = {}
        for name in networks:
            config = load_config(self.config_file(name))
            dataset = config.dataset.model_copy(update={"folds": folds})
            configs[name] = config.model_copy(update={"dataset": dataset})
        return configs

    def run(self, key: RunKey) -> RunFolder:
        """The run; it need not be there."""
        return RunFolder(self.path / "runs" / key.network / f"seed_{key.seed}" / f"fold_{key.fold}")

    def trial(self, network: str, rate: float) -> RunFolder:
        """The short training with a learning rate; it need not be there."""
        return RunFolder(self.path / "tuning" / network / f"rate_{rate:g}")

    def outcome_file(self, key: RunKey) -> Path:
        """What became of a run when it was trained."""
        return self.run(key).path.with_suffix(".json")

    def predictions(self, network: str, seed: int) -> Path:
        return self.path / "predictions" / network / f"seed_{seed}"

    def agree(self, asked: Asked) -> None:
        """Raise `InputError` unless the folder is new, or holds this comparison."""
        could_hold_files(self.path)
        if os.path.isfile(self.asked_file):
            asked.refuse_other(self.read(), self.path)
        elif os.path.isdir(self.path) and any(not child.name.startswith(".") for child in self.path.iterdir()):
            refuse_existing(self.path)

    def read(self) -> Asked:
        """What was asked for.

        Raises:
            InputError: the file is damaged.
        """
        try:
            content: dict[str, Any] = json.loads(read_text(self.asked_file))
            lists = {key: None if content[key] is None else tuple(content[key]) for key in ("networks", "folds")}
            if content.get("ablated") is not None:
                content["ablated"] = RunConfig.model_validate(content["ablated"])
            return Asked(**content | lists)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{self.asked_file} is damaged ({error}): name another folder") from error

    def keep(self, asked: Asked) -> None:
        """Write down what is asked for."""
        config = None if asked.ablated is None else asked.ablated.model_dump(mode="json")
        text = json.dumps(asdict(replace(asked, ablated=None)) | {"ablated": config}, indent=2)
        with whole_file(self.asked_file) as file:
            file.write_text(text + "\n", encoding="utf-8")


def keys_of(asked: Asked, folds: int) -> Iterator[RunKey]:
    """All runs: every network gets seed 0 before one gets seed 1.

    Raises:
        InputError: a fold does not exist.
    """
    chosen = range(folds) if asked.folds is None else sorted(set(asked.folds))
    if strangers := [fold for fold in chosen if not 0 <= fold < folds]:
        raise InputError(f"there is no fold {strangers[0]}: the {folds} folds are numbered 0 to {folds - 1}")
    for seed in range(asked.seeds):
        for fold in chosen:
            for network in asked.networks:
                yield RunKey(network, seed, fold)


def absolute(asked: Asked) -> Asked:
    """With the dataset's place as it is called from anywhere."""
    return replace(asked, dataset=str(Path(asked.dataset).absolute()))


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else "not given" if value is None else str(value)


def agree_early(folder: ComparisonFolder, asked: Asked) -> None:
    """Raise `InputError` as `ComparisonFolder.agree`, but while another process plans there: its plan is not whole."""
    could_hold_files(folder.path)
    if not folder.lock.is_file():
        folder.agree(asked)
        return
    with claimed(folder.lock, wait=False) as free:
        if free:
            folder.agree(asked)
