"""A mended copy of a dataset; the original is only read."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dlka_med.checking.check import Report
from dlka_med.checking.description import describe_copy
from dlka_med.checking.drafts import Draft, copy_file
from dlka_med.checking.fixes import LEFT_OUT, TWINS, Fix, Fixes, write_fixes
from dlka_med.checking.leftovers import copy_others
from dlka_med.checking.mends import MENDS, Unmendable, mend
from dlka_med.checking.places import Kept, places
from dlka_med.checking.selection import surplus
from dlka_med.data.case_facts import CaseFacts
from dlka_med.data.channel_files import Case
from dlka_med.data.formats import files_of
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

    A case that cannot be mended is left out, and of twins all but one; files that need no mend are copied byte by byte.

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
    codes, jobs, values = _codes(report), [], set()
    place = places(root, survey.cases)
    for case, facts in zip(survey.cases, survey.facts, strict=True):
        if beyond := [code for code in codes[case.id] if code not in MENDS]:
            path = codes[case.id][beyond[0]][0]
            fixes.append(Fix(case.id, path, beyond[0], f"{LEFT_OUT}: it cannot be mended"))
        else:
            jobs.append(_Job(case, facts, codes[case.id], place[case.id]))
    with whole_folder(out) as folder:
        write = partial(_write, folder, survey.dataset.channels, survey.declared)
        found = in_workers(write, jobs, cores() if workers is None else workers, progress("mending"))
        outcomes = {job.id: outcome for job, outcome in zip(jobs, found, strict=True)}
        twins = surplus(survey, {name for name, outcome in outcomes.items() if outcome.is_kept})
        kept, gone = [], []
        for name, outcome in outcomes.items():
            fixes += (twins[name],) if name in twins else outcome.fixes
            stays = outcome.is_kept and name not in twins
            values |= outcome.values if stays else set()
            (kept if stays else gone).append(place[name])
        _remove(folder, gone, kept)
        if not {one.case.id for one in kept} & {case.id for case in survey.dataset.cases}:
            raise InputError(f"no case of {root} can be mended or kept as it is: see the findings")
        fixes += describe_copy(survey, {finding.code for finding in report.findings}, folder, kept, values)
        fixes += copy_others(survey, folder, kept)
        write_fixes(folder / "fixes.csv", fixes)
    return Fixes(out, tuple(fixes), len(kept))


def _codes(report: Report) -> dict[str, Codes]:
    """By case, what has to be mended, and what may be; not what concerns a twin."""
    found: dict[str, Codes] = defaultdict(dict)
    for finding in report.findings:
        matters = finding.severity != "note" or finding.code in MENDS
        if finding.case is not None and finding.code not in TWINS and matters:
            codes = found[finding.case]
            codes[finding.code] = (*codes.get(finding.code, ()), finding.path)
    return found


def _remove(folder: Path, gone: Sequence[Kept], kept: Sequence[Kept]) -> None:
    """Take cases out of the copy, but for voxels that the header of a kept one names, too."""
    needed = {file for one in kept for path in one.files for file in files_of(folder / path)}
    for path in [path for one in gone for path in one.files]:
        for file in {*files_of(folder / path)} - needed:
            file.unlink(missing_ok=True)
        with suppress(OSError):
            (folder / path).parent.rmdir()


def _write(folder: Path, channels: Sequence[str], values: Collection[int], job: _Job) -> _Outcome:
    images = [folder / path for path in job.kept.images]
    label = None if job.kept.label is None else folder / job.kept.label
    if not job.codes:
        for source, target in zip(job.facts.files, [*images, label], strict=False):
            copy_file(source.path, target)
        held = () if job.facts.label is None else job.facts.label.voxels
        return _Outcome(values=frozenset(held))
    try:
        draft = Draft.of(job.case, job.facts, channels, values)
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
    values = draft.label_values
    return _Outcome(fixes, frozenset(() if values is None else np.unique(values).tolist()))
