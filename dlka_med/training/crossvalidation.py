"""Every case predicted by the fold that did not see it, and all of them evaluated once."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case, dataset_of
from dlka_med.data.folds import Folds
from dlka_med.data.formats import label_files
from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.evaluation.summary import Evaluation, summarise
from dlka_med.evaluation.tables import aligned, cell, records
from dlka_med.files import remove_unfinished, whole_file, writable_folder
from dlka_med.folds_folder import FoldsFolder
from dlka_med.inference.predict import predict_images
from dlka_med.provenance import Provenance, digest
from dlka_med.statistics import LEVEL

MADE_WITH = "made_with.json"

log = logging.getLogger("dlka_med")


def cross_validate(folder: FoldsFolder, config: RunConfig, folds: Folds) -> dict[str, Any]:
    """Predict each fold's cases with its run, into `predictions`, and evaluate them: `crossvalidation.json`.

    Label maps that a run of the very weights has left there of the very images are not made again.

    Args:
        folder: its runs are trained; nobody else may be at work in `predictions`.
        config: says where the dataset lies, and the device.
        folds: cases that validate in each fold.

    Returns:
        The content of `crossvalidation.json`: `all` is the evaluation of all cases together, `folds` has one entry
        each with the figures of its cases, `scores` one per case and label. For `format_crossvalidation`.

    Raises:
        InputError: a run was trained on a case that it has to predict, or as in `predict_images` and `evaluate`.
    """
    refuse_trained(folder, folds)
    present = {case.id: case for case in dataset_of(config.dataset, grouped=False).cases}
    _warn_of_changes(folder, folds, present)
    remove_unfinished(writable_folder(folder.predictions))
    for case, file in label_files(folder.predictions).items():
        if not any(case in cases for cases in folds):
            raise InputError(f"{file} belongs to no case of {folder.folds_file}: move it away")
    for fold, cases in enumerate(folds):
        _forget_others(folder, fold, {case: present[case].images for case in cases if case in present})
        lacking = set(cases) - label_files(folder.predictions).keys()
        if not lacking:
            continue
        log.info("fold %d predicts %d cases that it did not see", fold, len(lacking))
        predict_images(
            folder.run(fold).path,
            config.dataset.root,
            folder.predictions,
            device="cpu" if config.training.accelerator == "cpu" else None,
            only=lacking,
            postprocess=False,
        )
    names = folder.run(0).config.dataset.labels
    result = evaluate(
        folder.predictions,
        config.dataset.root,
        label_names=names,
        groups=config.dataset.groups,
        workers=max(config.training.workers, 1),
    )
    text = json.dumps(_content(result, folds), indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(folder.crossvalidation_file) as file:
        file.write_text(text + "\n", encoding="utf-8")
    return json.loads(text)


def format_crossvalidation(content: dict[str, Any]) -> str:
    """A table to read in a terminal: Dice per label in each fold and in all, and the means."""
    total, columns = content["all"], [*content["folds"], content["all"]]
    unit = total["unit"]
    means = {
        "mean Dice": ("dice", 4),
        f"mean HD95 {unit}": (f"hd95_{unit}", 2),
        f"mean NSD {total[f'tolerance_{unit}']:g} {unit}": ("nsd", 4),
    }
    table = [["Dice", *(f"fold {entry['fold']}" for entry in content["folds"]), "all"]]
    for name in total["labels"]:
        table.append([name, *(cell(entry["labels"][name]["dice"]["mean"], 4) for entry in columns)])
    for name, (key, digits) in means.items():
        table.append([name, *(cell(entry["mean"][key]["mean"], digits) for entry in columns)])
    table.append(["cases", *(str(entry["cases"]) for entry in columns)])
    lines = aligned(table)
    if span := total["mean"]["dice"]["interval"]:
        low, high = span
        lines.append(f"mean Dice: {LEVEL:.0%} interval {low:.4f} to {high:.4f}, {total['patients']} patients")
    return "\n".join(lines) + "\n"


def refuse_trained(folder: FoldsFolder, folds: Folds) -> None:
    """Raise `InputError` if a run was trained on a case of its fold."""
    for fold, run in folder.started(len(folds)).items():
        if seen := sorted(set(run.split["train"]) & set(folds[fold])):
            raise InputError(
                f"{run.path} was trained on {len(seen)} of the cases that validate in fold {fold} of "
                f"{folder.folds_file}, such as {seen[0]}: move the run away, and the same command trains the fold anew"
            )


def _content(result: Evaluation, folds: Folds) -> dict[str, Any]:
    fold_of = {case: fold for fold, cases in enumerate(folds) for case in cases}
    labels = list(result.labels)
    parts = []
    for fold, cases in enumerate(folds):
        rows = [row for row in result.scores if row.case in set(cases)]
        part = summarise(rows, cases, labels, result.protocol, result.unit, result.patient_of).summary()
        parts.append({"fold": fold} | {key: part[key] for key in ("mean", "labels", "cases", "patients")})
    scores = [{"fold": fold_of[record["case"]]} | record for record in records(result)]
    return {"all": result.summary(), "folds": parts, "scores": scores}


def _warn_of_changes(folder: FoldsFolder, folds: Folds, present: Mapping[str, Case]) -> None:
    changed = set()
    for run in folder.started(len(folds)).values():
        trained = [present[case] for case in run.split["train"] if case in present]
        changed.update(Provenance.of_run(run).outdated(trained))
    if changed:
        log.warning(
            "the images of %d cases are others than those that the folds were trained on, such as %s: move the folds "
            "away, and the same command trains them anew",
            len(changed),
            min(changed),
        )


def _forget_others(folder: FoldsFolder, fold: int, images: Mapping[str, Sequence[Path]]) -> None:
    """Remove the fold's label maps that other weights have made or that are of other images, and note the new ones.

    Args:
        images: of each of its cases.
    """
    record, run = folder.predictions / MADE_WITH, folder.run(fold)
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    now = {
        "weights": hashlib.sha256(run.weights_file.read_bytes()).hexdigest(),
        "images": {case: [digest(file) for file in files] for case, files in images.items()},
    }
    before = known.get(run.path.name)
    if before == now:
        return
    kept = before["images"] if isinstance(before, dict) and before["weights"] == now["weights"] else {}
    for case, file in label_files(folder.predictions).items():
        if case in images and kept.get(case) != now["images"][case]:
            file.unlink()
    with whole_file(record) as temporary:
        temporary.write_text(json.dumps(known | {run.path.name: now}, indent=1) + "\n", encoding="utf-8")
