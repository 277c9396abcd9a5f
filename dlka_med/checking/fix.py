"""A mended copy of a dataset; the original is only read."""

import csv
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dlka_med.checking.check import Report
from dlka_med.checking.drafts import Draft
from dlka_med.checking.mends import MENDS, Unmendable, mend
from dlka_med.checking.rules_dataset import patients
from dlka_med.data.case_facts import CaseFacts
from dlka_med.data.channel_files import Case
from dlka_med.data.formats import ENDINGS, LOSSY_ENDINGS, ending, stem
from dlka_med.data.workers import in_workers
from dlka_med.errors import InputError, WriteError
from dlka_med.files import refuse_existing, whole_folder
from dlka_med.progress import progress

COLUMNS = ("case", "file", "code", "done")
LEFT_OUT = "left out"
SPARED = {"duplicate-cases", "duplicate-in-test", "duplicate-across-groups", "group-in-test"}  # nothing is lost
WRITTEN = ("dataset.json", "groups.csv", "fixes.csv")
LISTED = 10


@dataclass(frozen=True)
class Fix:
    """One line of `fixes.csv`; `done` begins with "left out" if nothing could be mended."""

    case: str
    file: str
    code: str
    done: str

    @property
    def is_loss(self) -> bool:
        """Whether something is missing in the copy that only the user can mend."""
        return self.done.startswith(LEFT_OUT) and self.code not in SPARED


@dataclass(frozen=True)
class Fixes:
    """What became of a dataset in its copy."""

    out: Path
    fixes: tuple[Fix, ...]
    cases: int

    @property
    def left_out(self) -> tuple[Fix, ...]:
        return tuple(fix for fix in self.fixes if fix.is_loss)

    def describe(self) -> str:
        """What was done, in lines."""
        losses = [f"left out   {fix.code}  {fix.file}: {fix.done}" for fix in self.left_out]
        more = [f"... and {len(losses) - LISTED} more"] if len(losses) > LISTED else []
        mended = len(self.fixes) - len(losses)
        end = f"{self.out}: {self.cases} cases, {mended} changes, {len(losses)} left out; fixes.csv lists them"
        return "\n".join([*losses[:LISTED], *more, end]) + "\n"


@dataclass(frozen=True)
class _Job:
    case: Case
    facts: CaseFacts
    codes: dict[str, tuple[str, ...]]
    images: tuple[Path, ...]
    label: Path | None

    @property
    def id(self) -> str:
        return self.case.id


@dataclass(frozen=True)
class _Outcome:
    """`values`: that the written label holds; `reason`: why the case was left out."""

    changes: tuple[tuple[str, str, str], ...] = ()
    values: frozenset[int] = frozenset()
    reason: str | None = None


def fix_dataset(report: Report, out: str | Path, workers: int | None = None) -> Fixes:
    """Write a copy without what the report found.

    A case that cannot be mended is left out; files that need no mend are copied byte by byte.

    Args:
        workers: processes, each with one case in memory; None: one per core.

    Raises:
        InputError: `out` is not empty, lies in the dataset or around it, or no case can be kept.
    """
    survey, out = report.survey, Path(out)
    root = survey.dataset.root
    refuse_existing(out)
    if root.resolve() in (out.resolve(), *out.resolve().parents) or out.resolve() in root.resolve().parents:
        raise InputError(f"{out} and the dataset {root} lie in each other: name a folder elsewhere")
    codes: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for finding in report.findings:
        if finding.case is not None and (finding.severity != "note" or finding.code in MENDS):
            found = codes[finding.case]
            found[finding.code] = (*found.get(finding.code, ()), finding.path)
    fixes = [
        Fix("", one.path, one.code, f"{LEFT_OUT}: {one.wrong}")
        for one in report.findings
        if one.case is None and one.severity == "error"
    ]
    with whole_folder(out) as folder:
        jobs, kept, values = [], [], set()
        for case, facts in zip(survey.cases, survey.facts, strict=True):
            if beyond := [code for code in codes[case.id] if code not in MENDS]:
                why = "nothing is lost by it" if beyond[0] in SPARED else "it cannot be mended"
                fixes.append(Fix(case.id, codes[case.id][beyond[0]][0], beyond[0], f"{LEFT_OUT}: {why}"))
            else:
                jobs.append(_job(root, folder, case, facts, codes[case.id]))
        write = partial(_write, survey.dataset.channels, survey.dataset.labels)
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        outcomes = in_workers(write, jobs, count if workers is None else workers, progress("mending"))
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome.reason is not None:
                code, paths = next(iter(job.codes.items()))
                fixes.append(Fix(job.id, paths[0], code, f"{LEFT_OUT}: {outcome.reason}"))
                continue
            fixes += [Fix(job.id, path, code, done) for code, path, done in outcome.changes]
            kept.append(job)
            values |= outcome.values
        fixes += _describe(report, folder, kept, values)
        _write_table(folder / "fixes.csv", [COLUMNS, *((f.case, f.file, f.code, f.done) for f in fixes)])
    return Fixes(out, tuple(fixes), len(kept))


def _job(root: Path, folder: Path, case: Case, facts: CaseFacts, codes: dict[str, tuple[str, ...]]) -> _Job:
    images = tuple(folder / _place(root, path, "imagesTr") for path in case.images)
    label = None if case.label is None else folder / _place(root, case.label, "labelsTr")
    if label is not None and ending(label).lower() in LOSSY_ENDINGS:
        label = label.with_name(f"{stem(label)}.png")
    return _Job(case, facts, codes, images, label)


def _place(root: Path, path: Path, folder: str) -> Path:
    """Where a file stands in the copy; one from outside the dataset goes into `folder`."""
    relative = os.path.relpath(path, root)
    return Path(folder, path.name) if relative.startswith("..") else Path(relative)


def _write(channels: Sequence[str], labels: dict[str, int], job: _Job) -> _Outcome:
    facts, held = job.facts, frozenset() if job.facts.label is None else frozenset(job.facts.label.voxels)
    if not job.codes:
        for source, target in zip(facts.files, (*job.images, job.label), strict=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path, target)
        return _Outcome(values=held)
    try:
        draft = Draft.of(job.case, facts, channels, labels)
        changes = mend(draft, job.codes)
        draft.write(job.images, job.label)
    except WriteError:
        raise
    except (Unmendable, InputError) as reason:
        return _Outcome(reason=str(reason))
    return _Outcome(tuple(changes), frozenset() if draft.label is None else frozenset(np.unique(draft.label).tolist()))


def _describe(report: Report, folder: Path, kept: Sequence[_Job], values: Iterable[int]) -> list[Fix]:
    """Write what a copy says of itself; raise `InputError` if it has no case."""
    survey = report.survey
    trained = {case.id for case in survey.dataset.cases}
    labelled = [job for job in kept if job.id in trained]
    if not labelled:
        raise InputError(f"no case of {survey.dataset.root} can be mended or kept as it is: see the findings")
    fixes, root, description = [], survey.dataset.root, survey.description
    if description:
        fixes = _correct(survey.dataset.labels, root, description, folder, kept, trained, set(values))
    told = {finding.code for finding in report.findings}
    groups = {job.id: job.case.group or "" for job in kept} if survey.grouped and "groups-wrong" not in told else {}
    if "ids-one-patient" in told:
        groups = {name: patient for patient, ids in patients([job.id for job in kept]).items() for name in ids}
        fixes.append(Fix("", str(root / "groups.csv"), "ids-one-patient", "written, one group per patient"))
    if groups:
        _write_table(folder / "groups.csv", [("case", "group"), *groups.items()])
    for file in root.iterdir():
        if file.is_file() and file.name not in WRITTEN and not file.name.lower().endswith(ENDINGS):
            shutil.copyfile(file, folder / file.name)
    return fixes


def _correct(
    labels: dict[str, int],
    root: Path,
    description: dict[str, Any],
    folder: Path,
    kept: Sequence[_Job],
    trained: set[str],
    values: set[int],
) -> list[Fix]:
    """Write `dataset.json` with the cases and labels that are there."""
    corrected, fixes, source = dict(description), [], str(root / "dataset.json")
    inside = [{"image": _inside(folder, job.images[0]), "label": job.label} for job in kept]
    training = [
        {"image": entry["image"], "label": _inside(folder, entry["label"])}
        for job, entry in zip(kept, inside, strict=True)
        if job.id in trained
    ]
    test = [entry["image"] for job, entry in zip(kept, inside, strict=True) if job.id not in trained]
    if isinstance(corrected.get("training"), list):
        corrected |= {"training": training} | ({"test": test} if "test" in corrected else {})
    counts = {"numTraining": len(training), "numTest": len(test)}
    for key, count in counts.items():
        if key in corrected and corrected[key] != count and (key == "numTraining" or test):
            fixes.append(Fix("", source, "count-wrong", f"{key} corrected from {corrected[key]} to {count}"))
            corrected[key] = count
    absent = {name: value for name, value in labels.items() if value and value not in values}
    if absent and len(absent) < len(labels) - 1:
        corrected["labels"] = _without(corrected.get("labels", {}), absent)
        fixes += [Fix("", source, "label-absent", f"label {name!r} taken out: no case holds it") for name in absent]
    (folder / "dataset.json").write_text(json.dumps(corrected, indent=1) + "\n", encoding="utf-8")
    return fixes


def _inside(folder: Path, path: Path | None) -> str:
    return "" if path is None else f"./{path.relative_to(folder).as_posix()}"


def _without(labels: dict[str, Any], absent: dict[str, int]) -> dict[str, Any]:
    """The labels of a description, either way round, without the absent ones."""
    gone = {(str(name), str(value)) for name, value in absent.items()}
    return {
        key: entry
        for key, entry in labels.items()
        if (str(key), str(entry)) not in gone and (str(entry), str(key)) not in gone
    }


def _write_table(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
