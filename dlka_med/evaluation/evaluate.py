"""Compare a folder of predictions with reference labels."""

import csv
import dataclasses
import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dlka_med.config.labels import Declared
from dlka_med.data.formats import is_volume
from dlka_med.data.workers import in_workers
from dlka_med.errors import InputError
from dlka_med.evaluation.label_maps import scheme_of
from dlka_med.evaluation.pairing import LabelPairs, pair_cases, pair_labels, tell_unpaired
from dlka_med.evaluation.score import LabelScore, score_case
from dlka_med.files import refuse_existing, whole_folder, writable_folder
from dlka_med.metrics import EMPTY_MASK_RULE
from dlka_med.paths import could_hold_files
from dlka_med.progress import progress

METRICS = ("dice", "hd95", "nsd")
RULE = (
    f"{EMPTY_MASK_RULE} The mean of a label is over its cases; the overall mean is that of the labels' "
    "means, background left out."
)

Job = tuple[str, tuple[Path, Path]]
Unit = Literal["mm", "px"]


@dataclass(frozen=True)
class Mean:
    """Mean metrics; None where nothing was to be averaged."""

    dice: float | None
    hd95: float | None
    nsd: float | None


@dataclass(frozen=True)
class LabelSummary:
    """One label over all cases. `cases` counts those in the mean, misses and false positives among them."""

    dice: float | None
    hd95: float | None
    nsd: float | None
    dice_std: float | None
    hd95_std: float | None
    nsd_std: float | None
    dice_median: float | None
    hd95_median: float | None
    nsd_median: float | None
    cases: int
    missed: int
    false_positive: int
    both_empty: int


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; `scores` has one entry per case and label, sorted by case and label value.

    What one side alone has, cases and labels, is left out of all figures and named here.
    `hd95` and `tolerance` are in `unit`: mm for volumes, px (pixels) for 2D images, whose pixels have no known size.
    """

    mean: Mean
    labels: dict[str, LabelSummary]
    cases: int
    tolerance: float
    scores: tuple[LabelScore, ...]
    unit: Unit
    cases_without_prediction: tuple[str, ...] = ()
    cases_without_reference: tuple[str, ...] = ()
    labels_without_prediction: tuple[str, ...] = ()
    labels_without_reference: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`; distances carry their unit in their names."""
        content = dataclasses.asdict(self)
        del content["scores"]
        content["mean"] = self._with_units(content["mean"])
        content["labels"] = {name: self._with_units(label) for name, label in content["labels"].items()}
        return self._with_units(content) | {"rule": RULE}

    def columns(self) -> dict[str, str]:
        """Column of `cases.csv` -> field of `LabelScore`; pixels have no volume."""
        fields = [field.name for field in dataclasses.fields(LabelScore)]
        return self._with_units({name: name for name in fields if self.unit == "mm" or not name.endswith("_ml")})

    def _with_units(self, record: dict[str, Any]) -> dict[str, Any]:
        return {re.sub("^(hd95|tolerance)", rf"\1_{self.unit}", key): value for key, value in record.items()}


def evaluate(
    predictions: str | Path,
    labels: str | Path,
    out: str | Path | None = None,
    *,
    label_names: Declared | None = None,
    tolerance: float = 1.0,
    workers: int = 1,
    strict: bool = False,
) -> Evaluation:
    """Score label maps against references: Dice, HD95 and surface Dice (NSD).

    Distances are in millimetres, of 2D images (PNG, TIFF) in pixels. Files are paired by case id, the file name
    without suffix; a single prediction is paired with a single reference whatever their names. Labels are paired by
    name, each side by its own values; a region is the union of its values. Voxels that the references declare to be
    ignored belong to no mask. Cases and labels that one side alone has are listed and logged, not scored.

    Args:
        predictions: folder of label maps, or one file.
        labels: folder of references, one file, or a dataset's root.
        out: new folder for `cases.csv` and `summary.json`, which appear together or not at all; None: not
            written.
        label_names: values by name, of both sides, as `dataset.json` declares them; None: those of
            predictions/labels.json and of dataset.json at or beside the labels, or of the one that is there; else
            label_1, label_2, ... for the values found.
        tolerance: of the surface Dice, in mm or pixels.
        workers: processes; 1 compares in this one. More need `if __name__ == "__main__":` in scripts.
        strict: refuse cases and labels that one side alone has.

    Raises:
        InputError: nothing to compare, no label's name on both sides, volumes among 2D images, a damaged file,
            differing grids, undeclared label values (all such cases are named), or an output folder that exists
            or cannot be written to.
    """
    predictions, labels = Path(predictions), Path(labels)
    if not 0 <= tolerance < float("inf"):
        raise InputError(f"the tolerance of the surface Dice is {tolerance}, but must be 0 or more")
    if workers < 1:
        raise InputError(f"workers is {workers}, but at least one process has to compare")
    if out is not None:
        refuse_existing(could_hold_files(out))
        writable_folder(Path(out).parent)
    names = pair_labels(predictions, labels) if label_names is None else _checked(label_names)
    cases = pair_cases(predictions, labels, names)
    unit = _unit([prediction for prediction, _ in cases.found.values()])
    tell_unpaired(cases, names, strict=strict)
    score, jobs = partial(_score, names, tolerance), sorted(cases.found.items())
    rows = [row for scores in in_workers(score, jobs, workers, progress("evaluate")) for row in scores]
    result = dataclasses.replace(
        summarise(rows, sorted(cases.found), None if names is None else names.names, tolerance, unit),
        cases_without_prediction=cases.only_referred,
        cases_without_reference=cases.only_predicted,
        labels_without_prediction=() if names is None else names.only_referred,
        labels_without_reference=() if names is None else names.only_predicted,
    )
    if out is not None:
        write(result, out)
    return result


def summarise(
    rows: Iterable[LabelScore],
    cases: Sequence[str],
    labels: Sequence[str] | None,
    tolerance: float,
    unit: Unit = "mm",
) -> Evaluation:
    """Fill in labels that a case lacks, and average.

    Args:
        labels: names in their order; None: those of the rows, label_<value>, by value.
    """
    found = {(row.case, row.label): row for row in rows}
    if labels is None:
        labels = sorted({label for _, label in found}, key=lambda label: int(label.removeprefix("label_")))
    ml = 0.0 if unit == "mm" else None
    scores = [
        found.get((case, label)) or LabelScore(case, label, "both_empty", None, None, None, ml, ml, 0, 0)
        for case in cases
        for label in labels
    ]
    summaries = {label: _summary([score for score in scores if score.label == label]) for label in labels}
    means = {
        metric: _over(statistics.fmean, [getattr(label, metric) for label in summaries.values()]) for metric in METRICS
    }
    return Evaluation(Mean(**means), summaries, len(cases), tolerance, tuple(scores), unit)


def write(result: Evaluation, out: str | Path) -> None:
    """Write `cases.csv` and `summary.json` into the new folder `out`, both or neither."""
    with whole_folder(out) as folder:
        with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
            columns = result.columns()
            table = csv.writer(file)
            table.writerow(columns)
            table.writerows([getattr(score, field) for field in columns.values()] for score in result.scores)
        text = json.dumps(result.summary(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "summary.json").write_text(text + "\n", encoding="utf-8")


def format_summary(result: Evaluation) -> str:
    """A table to read in a terminal."""
    head = (
        "label",
        "Dice",
        f"HD95 {result.unit}",
        f"NSD {result.tolerance:g} {result.unit}",
        "cases",
        "missed",
        "false pos.",
        "empty",
    )
    table = [head]
    for name, label in result.labels.items():
        counts = (label.cases, label.missed, label.false_positive, label.both_empty)
        table.append((name, *_cells(label), *map(str, counts)))
    table.append(("mean", *_cells(result.mean), str(result.cases), "", "", ""))
    lines = aligned(table)
    if result.cases_without_prediction:
        lines.append(f"{len(result.cases_without_prediction)} references without a prediction are not counted")
    if result.cases_without_reference:
        lines.append(f"{len(result.cases_without_reference)} predictions without a reference are not counted")
    if one_sided := (*result.labels_without_prediction, *result.labels_without_reference):
        lines.append(f"labels that one side alone names are not counted: {', '.join(one_sided)}")
    return "\n".join(lines) + "\n"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines of text, the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _cells(means: Mean | LabelSummary) -> tuple[str, str, str]:
    dice, hd95, nsd = (getattr(means, metric) for metric in METRICS)
    formats = ((dice, ".4f"), (hd95, ".2f"), (nsd, ".4f"))
    return tuple("-" if value is None else format(value, digits) for value, digits in formats)


def _summary(scores: Sequence[LabelScore]) -> LabelSummary:
    statuses = [score.status for score in scores]
    columns = {metric: [getattr(score, metric) for score in scores] for metric in METRICS}
    return LabelSummary(
        **{metric: _over(statistics.fmean, values) for metric, values in columns.items()},
        **{f"{metric}_std": _over(statistics.pstdev, values) for metric, values in columns.items()},
        **{f"{metric}_median": _over(statistics.median, values) for metric, values in columns.items()},
        cases=len(scores) - statuses.count("both_empty"),
        missed=statuses.count("missed"),
        false_positive=statuses.count("false_positive"),
        both_empty=statuses.count("both_empty"),
    )


def _over(function: Callable[[list[float]], float], values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(function(known)) if known else None


def _unit(predictions: Sequence[Path]) -> Unit:
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


def _score(names: LabelPairs | None, tolerance: float, job: Job) -> list[LabelScore]:
    case, paths = job
    return score_case(case, *paths, names, tolerance)
