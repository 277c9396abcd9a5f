"""What goes into a report, and the file of it."""

import logging
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from dlka_med.data.cases import Dataset
from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.files import whole_file
from dlka_med.report import figures
from dlka_med.report.background import about_this_report, facts_of, fingerprints, rows_of
from dlka_med.report.page import render
from dlka_med.report.predicted import Predicted, dataset_today, given, own, refuse_another_dataset
from dlka_med.report.sections import (
    Judged,
    check_of,
    comparison_of,
    reliability_of,
    scores_of,
    settings_of,
    warnings_of,
    worth_telling,
)
from dlka_med.report.subject import Subject, open_subject

log = logging.getLogger("dlka_med")

KINDS = {"run": "Training", "folds": "Cross-validation", "comparison": "Comparison"}


def write_report(
    path: str | Path,
    predictions: str | Path | None = None,
    *,
    out: str | Path,
    against: str | Path | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> Path:
    """Write one HTML file that tells what was trained on what, and how good it is; it needs no other file.

    Without `predictions` the cases that validated are predicted by weights that did not train on them, or their label
    maps are found where a cross-validation or a comparison left them. Where there is nothing to judge yet, the report
    tells the course of the training and its settings, and says so.

    Args:
        path: a run folder, the folder of the folds of a cross-validation, or that of a comparison.
        predictions: folder of label maps of cases of the run's dataset.
        out: the HTML file, which is replaced if it is there.
        against: other predictions of the same cases, to be compared in pairs.
        device: as PyTorch names it, for predicting; None: cuda where there is one.
        workers: processes that evaluate and check the dataset; None: one that evaluates, and one per core that check.

    Raises:
        InputError: there is no such run, the predictions are of another dataset, or as in `evaluate`.
    """
    subject = open_subject(path)
    notes: list[str] = []
    dataset = dataset_today(subject)
    if isinstance(dataset, str):
        if predictions is not None or against is not None:
            raise InputError(f"{subject.path}: {dataset} Set dataset.root of its config.yaml to where it lies today")
        notes.append(f"{dataset} So there are no figures and no pictures.")
    with tempfile.TemporaryDirectory() as scratch:
        judged = None
        if isinstance(dataset, Dataset):
            found = _found(subject, dataset, predictions, Path(scratch), device)
            if isinstance(found, str):
                if against is not None:
                    raise InputError(f"{subject.path} has nothing to compare with {against}. {found}")
                notes.append(found)
            else:
                if against is not None:
                    refuse_another_dataset(subject, dataset, Path(against))
                judged = _judge(subject, dataset, found, against, workers)
        content = _content(subject, dataset if isinstance(dataset, Dataset) else None, judged, against, notes, workers)
    out = Path(out)
    with whole_file(out) as file:
        file.write_text(render(content), encoding="utf-8")
    log.info("%s: %.1f MB", out, out.stat().st_size / 1e6)
    return out


def _found(
    subject: Subject, dataset: Dataset, predictions: str | Path | None, scratch: Path, device: str | None
) -> Predicted | str:
    return own(subject, scratch, device) if predictions is None else given(subject, dataset, Path(predictions))


def _judge(
    subject: Subject, dataset: Dataset, predicted: Predicted, against: str | Path | None, workers: int | None
) -> Judged:
    asked = subject.config.dataset
    result = evaluate(
        predicted.folder,
        dataset.root,
        label_names=asked.labels,
        groups=asked.groups,
        against=() if against is None else (Path(against),),
        workers=workers or 1,
    )
    return Judged(predicted, result, {case.id: case for case in dataset.cases})


def _content(
    subject: Subject,
    dataset: Dataset | None,
    judged: Judged | None,
    against: str | Path | None,
    notes: list[str],
    workers: int | None,
) -> dict[str, Any]:
    """All that the template asks for."""
    compared = comparison_of(subject)
    if subject.kind == "comparison" and compared is None:
        notes.append("The comparison is not finished: there is no compare.json yet.")
    scores = {} if judged is None else scores_of(subject, judged, against, workers)
    if judged is not None:
        notes += warnings_of(judged)
    return {
        "name": subject.config.name if subject.kind != "comparison" else subject.path.resolve().name,
        "kind": KINDS[subject.kind],
        "written": datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        "versions": about_this_report(subject),
        "told": None if judged is None else judged.predicted.told,
        "notes": notes,
        "compared": compared,
        "scores": scores,
        "curves": figures.curves({part.name: rows_of(part.run) for part in subject.parts}),
        "facts": [(part.name, facts_of(part, dataset)) for part in worth_telling(subject)],
        "fingerprints": fingerprints(subject.parts[0]),
        "split_of": subject.parts[0].name,
        "split": {name: ids for name, ids in subject.parts[0].run.split.items() if ids},
        "reliability": reliability_of(subject, judged),
        "check": None if dataset is None else check_of(subject, workers),
        "config": settings_of(subject),
    }
