"""Which prediction belongs to which reference, and which of their values mean the same."""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlka_med.config.labels import IGNORE, LabelScheme
from dlka_med.data.groups import read_groups
from dlka_med.errors import InputError
from dlka_med.evaluation.label_maps import (
    find_label_maps,
    find_references,
    is_dataset,
    predicted_labels,
    reference_labels,
)

logger = logging.getLogger("dlka_med")

SHOWN = 3


@dataclass(frozen=True)
class LabelPairs:
    """Values of each label or region by name, as either side numbers them, and that of voxels not to be scored."""

    predicted: Mapping[str, tuple[int, ...]]
    referred: Mapping[str, tuple[int, ...]]
    ignore: int | None = None

    @classmethod
    def of(cls, predicted: LabelScheme, referred: LabelScheme) -> "LabelPairs":
        """The labels of two schemes; the references say what is ignored."""
        return cls(predicted.target_values, referred.target_values, referred.ignore)

    @property
    def names(self) -> tuple[str, ...]:
        """What both sides know, in the order of the predictions."""
        return tuple(name for name in self.predicted if name in self.referred)

    @property
    def declared(self) -> dict[str, int | tuple[int, ...]]:
        """The labels of the references, as a dataset declares them."""
        labels = {name: values[0] if len(values) == 1 else values for name, values in self.referred.items()}
        return {"background": 0, **labels} | ({} if self.ignore is None else {IGNORE: self.ignore})

    @property
    def only_predicted(self) -> tuple[str, ...]:
        return tuple(name for name in self.predicted if name not in self.referred)

    @property
    def only_referred(self) -> tuple[str, ...]:
        return tuple(name for name in self.referred if name not in self.predicted)


@dataclass(frozen=True)
class CasePairs:
    """(prediction, reference) by case id, and the ids of what has no partner."""

    found: Mapping[str, tuple[Path, Path]]
    only_predicted: tuple[str, ...] = ()
    only_referred: tuple[str, ...] = ()

    def among(self, cases: Collection[str] | None) -> "CasePairs":
        """Those of these cases alone; None: all.

        Raises:
            InputError: there is none.
        """
        if cases is None:
            return self
        if not set(cases) & set(self.found):
            raise InputError(f"none of the {len(cases)} cases that are meant, such as {min(cases)}, has a pair")
        found = {case: paths for case, paths in self.found.items() if case in cases}
        lone = ([case for case in ids if case in cases] for ids in (self.only_predicted, self.only_referred))
        return CasePairs(found, *map(tuple, lone))


def pair_labels(predictions: Path, references: Path) -> LabelPairs | None:
    """Match labels by name, each side by its own values: labels.json of the predictions, dataset.json of the
    references. Where one side has no names, its values are read as those of the other, and a line says so; None
    where neither has.

    Raises:
        InputError: a description is damaged, or no name is on both sides.
    """
    ours = predicted_labels(predictions)
    try:
        theirs = reference_labels(references)
    except InputError as error:
        if ours is None:
            raise
        logger.warning("%s; its values are read as the predictions name theirs", error)
        return LabelPairs.of(ours, ours)
    if ours is None or theirs is None:
        if ours is not None:
            logger.info("%s has no dataset.json: its values are read as the predictions name theirs", references)
        if theirs is not None:
            logger.info("%s has no labels.json: its values are read as the references name theirs", predictions)
        known = theirs if ours is None else ours
        return None if known is None else LabelPairs.of(known, known)
    pairs = LabelPairs.of(ours, theirs)
    if not pairs.names:
        raise InputError(
            f"labels are matched by name, but the predictions name {', '.join(ours.names)} and the references "
            f"{', '.join(theirs.names)}: rename them in labels.json of {predictions}, or remove it if the values agree"
        )
    return pairs


def pair_cases(predictions: Path, references: Path, labels: LabelPairs | None = None) -> CasePairs:
    """Match files by case id; one file is matched with one file whatever their names.

    Args:
        labels: those of the references, if they are known.

    Raises:
        InputError: there is nothing to pair.
    """
    declared = None if labels is None else labels.declared
    ours, theirs = find_label_maps(predictions), find_references(references, declared)
    if os.path.isfile(predictions) and os.path.isfile(references):
        return CasePairs({case: (predictions, references) for case in ours})
    pairs = {case: (path, theirs[case]) for case, path in ours.items() if case in theirs}
    if not pairs:
        raise InputError(
            f"none of {len(ours)} predictions has a reference in {references}, the first is {min(ours.values())}: "
            "predictions and references are paired by file name"
        )
    return CasePairs(pairs, tuple(sorted(ours.keys() - theirs.keys())), tuple(sorted(theirs.keys() - ours.keys())))


def patients_of(references: Path, cases: Sequence[str], table: str | Path | None = None) -> dict[str, str]:
    """The patient of each case, by a table of cases and groups; a case without a group is a patient of its own.

    Args:
        table: it names every case; None: groups.csv at or beside the references, if there is one, which need not name
            those of `imagesTs`: a case that it lacks is a patient of its own.

    Raises:
        InputError: the table is damaged, or one that was given lacks a case.
    """
    required = () if table is None else cases
    if table is None:
        folder = references if os.path.isdir(references) else references.parent
        places = [folder] if is_dataset(folder) else [folder, folder.resolve().parent]
        table = next((place / "groups.csv" for place in places if os.path.isfile(place / "groups.csv")), None)
    groups = {} if table is None else read_groups(Path(table), required, cases, strangers=True)
    if table is not None and (lacking := [case for case in cases if case not in groups]):
        logger.info("%s names no group of %s: each counts as a patient", table, _first(lacking))
    return {case: f"group {groups[case]}" if groups.get(case) else f"case {case}" for case in cases}


def tell_unpaired(cases: CasePairs, labels: LabelPairs | None, *, strict: bool) -> None:
    """A warning for each kind of thing without a partner; with `strict` an `InputError`."""
    paired, named = len(cases.found), 0 if labels is None else len(labels.names)
    kinds = [
        (cases.only_predicted, paired, "predictions have no reference"),
        (cases.only_referred, paired, "references have no prediction"),
        ((), 0, "") if labels is None else (labels.only_predicted, named, "labels are unknown to the references"),
        ((), 0, "") if labels is None else (labels.only_referred, named, "labels are unknown to the predictions"),
    ]
    for names, partners, what in kinds:
        if not names:
            continue
        told = f"{len(names)} of {len(names) + partners} {what}"
        if strict:
            raise InputError(f"{told}: {_first(names)}; without strict they are left out")
        logger.warning("%s and are left out: %s", told, _first(names))


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
