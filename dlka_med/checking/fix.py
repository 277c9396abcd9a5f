"""A mended copy of a dataset; the original is only read."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dlka_med.checking.check import Report
from dlka_med.checking.description import Kept, describe_copy
from dlka_med.checking.drafts import Draft, copy_file
from dlka_med.checking.fixes import LEFT_OUT, SPARED, Fix, Fixes, write_fixes
from dlka_med.checking.mends import MENDS, Unmendable, mend
from dlka_med.data.case_facts import CaseFacts
from dlka_med.data.channel_files import Case
from dlka_med.data.formats import LOSSY_ENDINGS, ending, stem
from dlka_med.data.workers import cores, in_workers
from dlka_med.errors import InputError, WriteError
from dlka_med.files import refuse_existing, whole_folder
from dlka_med.progress import progress

Codes = dict[str, tuple[str, ...]]
"""Files by the code that they were told of."""


@dataclass(frozen=True)
class _Job:
    case: Case
    facts: CaseFacts
    codes: Codes
    kept: Kept

    @property
    def id(self) -> str:
        return self.case.id


@dataclass(frozen=True)
class _Outcome:
    """`values`: that the written label holds; `is_kept`: whether the case is in the copy."""

    fixes: tuple[Fix, ...] = ()
    values: frozenset[int] = frozenset()
    is_kept: bool = True


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
    fixes = [
        Fix("", one.path, one.code, f"{LEFT_OUT}: {one.wrong}")
        for one in report.findings
        if one.case is None and one.severity == "error"
    ]
    codes, jobs, kept, values = _codes(report), [], [], set()
    for case, facts in zip(survey.cases, survey.facts, strict=True):
        if beyond := [code for code in codes[case.id] if code not in MENDS]:
            why = "nothing is lost by it" if beyond[0] in SPARED else "it cannot be mended"
            fixes.append(Fix(case.id, codes[case.id][beyond[0]][0], beyond[0], f"{LEFT_OUT}: {why}"))
        else:
            jobs.append(_Job(case, facts, codes[case.id], _places(root, case)))
    with whole_folder(out) as folder:
        write = partial(_write, folder, survey.dataset.channels, survey.dataset.labels)
        outcomes = in_workers(write, jobs, cores() if workers is None else workers, progress("mending"))
        for job, outcome in zip(jobs, outcomes, strict=True):
            fixes += outcome.fixes
            values |= outcome.values
            if outcome.is_kept:
                kept.append(job.kept)
        if not {one.case.id for one in kept} & {case.id for case in survey.dataset.cases}:
            raise InputError(f"no case of {root} can be mended or kept as it is: see the findings")
        fixes += describe_copy(survey, {finding.code for finding in report.findings}, folder, kept, values)
        write_fixes(folder / "fixes.csv", fixes)
    return Fixes(out, tuple(fixes), len(kept))


def _codes(report: Report) -> dict[str, Codes]:
    """By case, what has to be mended, and what may be."""
    found: dict[str, Codes] = defaultdict(dict)
    for finding in report.findings:
        if finding.case is not None and (finding.severity != "note" or finding.code in MENDS):
            codes = found[finding.case]
            codes[finding.code] = (*codes.get(finding.code, ()), finding.path)
    return found


def _places(root: Path, case: Case) -> Kept:
    """Where the files of a case lie in the copy."""
    images = tuple(_place(root, path, "imagesTr") for path in case.images)
    if case.label is None:
        return Kept(case, images, None)
    label = _place(root, case.label, "labelsTr")
    is_lossy = ending(label).lower() in LOSSY_ENDINGS
    return Kept(case, images, label.with_name(f"{stem(label)}.png") if is_lossy else label)


def _place(root: Path, path: Path, folder: str) -> Path:
    """As in the dataset; a file from outside it goes into `folder`."""
    relative = os.path.relpath(path, root)
    return Path(folder, path.name) if relative.startswith("..") else Path(relative)


def _write(folder: Path, channels: Sequence[str], labels: Mapping[str, int], job: _Job) -> _Outcome:
    images = [folder / path for path in job.kept.images]
    label = None if job.kept.label is None else folder / job.kept.label
    if not job.codes:
        for source, target in zip(job.facts.files, [*images, label], strict=False):
            copy_file(source.path, target)
        held = () if job.facts.label is None else job.facts.label.voxels
        return _Outcome(values=frozenset(held))
    try:
        draft = Draft.of(job.case, job.facts, channels, labels)
        fixes = tuple(Fix(job.id, path, code, done) for code, path, done in mend(draft, job.codes))
        draft.write(images, label, {fix.file for fix in fixes})
    except Unmendable as reason:
        [path, *_] = job.codes[reason.code]
        return _Outcome((Fix(job.id, path, reason.code, f"{LEFT_OUT}: {reason}"),), is_kept=False)
    except WriteError:
        raise
    except InputError as error:
        code, paths = next(iter(job.codes.items()))
        return _Outcome((Fix(job.id, paths[0], code, f"{LEFT_OUT}: {error}"),), is_kept=False)
    return _Outcome(fixes, frozenset(() if draft.label is None else np.unique(draft.label).tolist()))
