"""Label maps that a report may judge by: given, found, or made by weights that did not see the case."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dlka_med.data.cases import Dataset, dataset_of
from dlka_med.errors import InputError
from dlka_med.evaluation.label_maps import find_label_maps, predicted_labels
from dlka_med.inference.predict import predict_images
from dlka_med.report.makers import makers_of
from dlka_med.report.subject import Subject

log = logging.getLogger("dlka_med")

ROLES = {"validation": "held out", "test": "test", "train": "trained"}


@dataclass(frozen=True)
class Predicted:
    """Label maps and where they come from.

    Attributes:
        told: a sentence about them.
        roles: what each case was to the weights that made its label map, by id: one of the values of `ROLES`, new, or
            unknown.
        others: a sentence about label maps that other weights than the subject's made; empty where none is known.
    """

    folder: Path
    told: str
    roles: Mapping[str, str]
    others: str = ""


def given(subject: Subject, dataset: Dataset, folder: Path) -> Predicted:
    """Label maps that the user names; the errors are those of `refuse_another_dataset`."""
    refuse_another_dataset(subject, dataset, folder)
    return _found(subject, folder)


def refuse_another_dataset(subject: Subject, dataset: Dataset, folder: Path) -> None:
    """See that label maps can be set against the cases of a run.

    Raises:
        InputError: they are of another dataset than the run, by their cases or by their labels.
    """
    found, known = find_label_maps(folder), {case.id for case in (*dataset.cases, *dataset.test)}
    if not found.keys() & known:
        raise InputError(
            f"{folder} holds predictions of another dataset than {subject.path}: none of its {len(found)} cases, such "
            f"as {min(found)}, is in {dataset.root}, where {min(known)} is; give predictions of that dataset"
        )
    scheme, labels = subject.config.dataset.scheme, predicted_labels(folder)
    if labels is not None and labels.target_values != scheme.target_values:
        raise InputError(
            f"{folder} holds predictions of another dataset than {subject.path}: its labels.json names {labels}, but "
            f"the run knows {scheme}"
        )


def own(subject: Subject, scratch: Path, device: str | None) -> Predicted | str:
    """Label maps of the cases that validated: those that the folder holds, else made now by the weights there are.

    Args:
        scratch: folder for what is made.

    Returns:
        Why there are none, where there are none.

    Raises:
        InputError: as in `predict_images`.
    """
    if (found := subject.predictions) is not None:
        told = {
            "folds": "Every case was predicted by the fold that did not see it.",
            "comparison": f"They and all cases below are those of {subject.told[0].name.rsplit(',', 1)[0]} alone; the "
            "table of networks has the means over all seeds.",
        }
        predicted = _found(subject, found)
        return predicted if predicted.others else replace(predicted, told=told[subject.kind])
    ready = [part for part in subject.told if part.run.weights_file.is_file()]
    if not ready:
        return "The training has no weights yet: there are curves and settings, but no figures."
    validating = [part for part in ready if part.run.split["validation"]]
    if not validating:
        return (
            "No case validates this run, since it was trained on all of them (dataset.fold: all), so that there are "
            "no figures. Give predictions of cases that it did not see."
        )
    for part in validating:
        log.info("%s predicts the cases that validated it", part.name or part.run.path)
        root = part.run.config.dataset.root
        # Post-processing was chosen on these very cases: the figures are those of the network.
        chosen = {"split": "validation", "skip_existing": True, "postprocess": False}
        predict_images(part.run.path, root, scratch, device=device, **chosen)
    cases = [case for part in validating for case in part.run.split["validation"]]
    told = "The cases that validated were predicted for this report, by weights that did not train on them."
    if subject.kind == "comparison":
        told += f" They are those of {subject.told[0].network}."
    if len(ready) < len(subject.told):
        told += f" {len(subject.told) - len(ready)} of {len(subject.told)} trainings have no weights yet."
    return Predicted(scratch, told, dict.fromkeys(cases, ROLES["validation"]))


def _found(subject: Subject, folder: Path) -> Predicted:
    """Label maps that are there, with what their folder remembers of them, else what the split says."""
    cases = list(find_label_maps(folder))
    makers = makers_of(subject, folder, cases)
    roles = roles_of(subject, cases) | {case: ROLES.get(part, part) for case, part in makers.parts.items()}
    counts = {role: sum(one == role for one in roles.values()) for role in (*ROLES.values(), "new", "unknown")}
    told = ", ".join(f"{count} {role}" for role, count in counts.items() if count)
    return Predicted(folder, f"The predictions are those in the folder {folder.name}: {told}.", roles, makers.others)


def roles_of(subject: Subject, cases: list[str]) -> dict[str, str]:
    """What each case was to the network by its split; of several that share a case, as the best of them saw it."""
    splits = [part.run.split for part in subject.told]
    parts = {case: role for split in splits for part, role in ROLES.items() for case in split[part] if part == "train"}
    parts |= {case: ROLES[part] for split in splits for part in ("test", "validation") for case in split[part]}
    return {case: parts.get(case, "new") for case in cases}


def dataset_today(subject: Subject) -> Dataset | str:
    """The dataset of a run, or why it cannot be read."""
    root = subject.config.dataset.root
    if not os.path.isdir(root):
        return f"The dataset is not where the run's config says (dataset.root: {root})."
    try:
        return dataset_of(subject.config.dataset)
    except InputError as error:
        return f"The dataset cannot be read: {error}."
