"""Compare a folder of predictions with reference labels."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from dlka_med.config.labels import Declared
from dlka_med.data.formats import is_volume
from dlka_med.data.workers import in_workers
from dlka_med.errors import InputError
from dlka_med.evaluation.against import compared
from dlka_med.evaluation.label_maps import scheme_of
from dlka_med.evaluation.measures import Protocol, Unit
from dlka_med.evaluation.origins import origins_of
from dlka_med.evaluation.pairing import LabelPairs, pair_cases, pair_labels, patients_of, tell_unpaired
from dlka_med.evaluation.score import LabelScore, score_case
from dlka_med.evaluation.summary import Evaluation, filled, summarise, unnamed_labels
from dlka_med.evaluation.tables import write
from dlka_med.files import refuse_existing, writable_folder
from dlka_med.metrics.centerline import thinning
from dlka_med.paths import could_hold_files
from dlka_med.progress import progress

log = logging.getLogger("dlka_med")

Job = tuple[str, tuple[Path, Path]]


def evaluate(
    predictions: str | Path,
    labels: str | Path,
    out: str | Path | None = None,
    *,
    label_names: Declared | None = None,
    protocol: Protocol | None = None,
    groups: str | Path | None = None,
    against: Sequence[str | Path] = (),
    only: Collection[str] | None = None,
    workers: int = 1,
    strict: bool = False,
) -> Evaluation:
    """Score label maps against references: overlap, surfaces, volumes, and what the figures say of all patients.

    Distances are in millimetres, of 2D images (PNG, TIFF) in pixels. Files are paired by case id, the file name
    without suffix; a single prediction is paired with a single reference whatever their names. Labels are paired by
    name, each side by its own values; a region is the union of its values. Voxels that the references declare to be
    ignored belong to no mask. Cases and labels that one side alone has are listed and logged, not scored. Where the
    predictions, ours or others, remember what the cases were to the run that made them, the result says so, and of
    cases that trained it a warning is logged.

    Args:
        predictions: folder of label maps, or one file.
        labels: folder of references, one file, or a dataset's root.
        out: new folder for `cases.csv` and `summary.json`, which appear together or not at all; None: not
            written.
        label_names: values by name, of both sides, as `dataset.json` declares them; None: those of
            predictions/labels.json and of dataset.json at or beside the labels, or of the one that is there; else
            label_1, label_2, ... for the values found.
        protocol: what is measured; None: `Protocol()`.
        groups: table of cases and patients (`case,group`); None: groups.csv at or beside the labels; else each case
            counts as a patient.
        against: other predictions of the same references, to be compared case by case.
        only: ids of the cases that are meant, as if there were no others; None: all.
        workers: processes; 1 compares in this one. More need `if __name__ == "__main__":` in scripts.
        strict: refuse cases and labels that one side alone has.

    Raises:
        InputError: nothing to compare, no label's name on both sides, volumes among 2D images, a damaged file,
            differing grids, undeclared label values (all such cases are named), values without a name of which none is
            on both sides, or an output folder that exists or cannot be written to.
    """
    predictions, labels, others = Path(predictions), Path(labels), [Path(other) for other in against]
    protocol = protocol or Protocol()
    if protocol.tubes:
        thinning()  # What is not installed is told once, before any work.
    if workers < 1:
        raise InputError(f"workers is {workers}, but at least one process has to compare")
    if len({predictions, *others}) <= len(others):
        raise InputError(
            f"the predictions to compare have to differ, got {', '.join(map(str, (predictions, *others)))}"
        )
    if out is not None:
        refuse_existing(could_hold_files(out))
        writable_folder(out if Path(out).is_dir() else Path(out).parent)
    names = pair_labels(predictions, labels) if label_names is None else _checked(label_names)
    cases = pair_cases(predictions, labels, names).among(only)
    for found in (predictions, *others):
        if found.resolve() == labels.resolve():
            log.warning("%s are the references themselves: nothing was predicted there", found)
    rivals = {other: _rival(other, labels, names, only, known=label_names is not None) for other in others}
    paths = [cases.found, *(found for _, found in rivals.values())]
    unit = _unit([prediction for found in paths for prediction, _ in found.values()])
    patients = patients_of(labels, sorted({case for found in paths for case in found}), groups)
    if names is not None:
        protocol.check_labels(names.names)
    tell_unpaired(cases, names, strict=strict)
    rows = _scored(cases.found, names, protocol, workers, "evaluate")
    if names is None:
        _refuse_foreign_values(predictions, rows)
    theirs = {
        other: _scored(found, pairs, protocol, workers, f"evaluate {other}") for other, (pairs, found) in rivals.items()
    }
    known = unnamed_labels(chain(rows, *theirs.values())) if names is None else names.names
    result = replace(
        summarise(rows, list(cases.found), known, protocol, unit, patients),
        cases_without_prediction=cases.only_referred,
        cases_without_reference=cases.only_predicted,
        labels_without_prediction=() if names is None else names.only_referred,
        labels_without_reference=() if names is None else names.only_predicted,
        origins=origins_of(predictions, cases.found),
    )
    if names is None:
        protocol.check_labels(tuple(result.labels))
    names_of = _short([predictions, *rivals])
    scores = {names_of[predictions]: result.scores}
    for other, (_, found) in rivals.items():
        scores[names_of[other]] = filled(theirs[other], list(found), list(result.labels), protocol, unit)
    if rivals:
        result = compared(result, scores, patients)
        trained = [origins_of(other, found).get("train", ()) for other, (_, found) in rivals.items()]
        both = zip(result.comparisons, trained, strict=True)
        result = replace(result, comparisons=tuple(replace(one, trained=cases) for one, cases in both))
    if out is not None:
        write(result, out)
    return result


def _scored(
    paths: Mapping[str, tuple[Path, Path]], names: LabelPairs | None, protocol: Protocol, workers: int, what: str
) -> list[LabelScore]:
    scores = in_workers(partial(_score, names, protocol), sorted(paths.items()), workers, progress(what))
    return [row for rows in scores for row in rows]


def _score(names: LabelPairs | None, protocol: Protocol, job: Job) -> list[LabelScore]:
    case, paths = job
    return score_case(case, *paths, names, protocol)


def _refuse_foreign_values(predictions: Path, rows: Sequence[LabelScore]) -> None:
    """Raise `InputError` if nothing that was predicted has a value of the references, such as 255 for 1."""
    found = unnamed_labels(row for row in rows if row.prediction_voxels)
    expected = unnamed_labels(row for row in rows if row.reference_voxels)
    if found and expected and not set(found) & set(expected):
        ours, theirs = (", ".join(label.removeprefix("label_") for label in side[:8]) for side in (found, expected))
        raise InputError(
            f"the label maps of {predictions} hold the values {ours}, their references {theirs}: none is on both "
            "sides; if they mean the same, name them in a labels.json beside the predictions and a dataset.json beside "
            "the references"
        )


def _rival(
    other: Path, labels: Path, names: LabelPairs | None, only: Collection[str] | None, *, known: bool
) -> tuple[LabelPairs | None, Mapping[str, tuple[Path, Path]]]:
    """How others number the labels, and their label maps with the references.

    Args:
        known: the names are those of all sides, whatever their descriptions say.
    """
    pairs = names if known else pair_labels(other, labels)
    if names is not None and (lacking := [name for name in names.names if pairs is None or name not in pairs.names]):
        raise InputError(f"{other} has no label {lacking[0]!r} to compare: mend its labels.json")
    if names is None and pairs is not None:
        raise InputError(
            f"{other} names its labels ({', '.join(pairs.names)}), those it is compared with have none: give each "
            "a labels.json, or the references a dataset.json"
        )
    return pairs, pair_cases(other, labels, pairs).among(only).found


def _short(paths: Sequence[Path]) -> dict[Path, str]:
    """As many of the last parts of each path as tell them apart."""
    whole = {path: path.resolve().parts for path in paths}
    for count in range(1, max(map(len, whole.values()))):
        lasts = {path: "/".join(parts[-count:]) for path, parts in whole.items()}
        if len(set(lasts.values())) == len(lasts):
            return lasts
    return {path: str(path) for path in paths}


def _unit(predictions: Iterable[Path]) -> Unit:
    kinds = {is_volume(path): path for path in predictions}
    if len(kinds) > 1:
        raise InputError(
            f"{kinds[True]} is a volume and {kinds[False]} a 2D image, whose distances (mm, pixels) have no common "
            "mean: evaluate them apart"
        )
    return "px" if False in kinds else "mm"


def _checked(label_names: Declared) -> LabelPairs:
    try:
        scheme = scheme_of(label_names)
        return LabelPairs.of(scheme, scheme)
    except ValueError as error:
        raise InputError(f"label_names: {error}") from error
