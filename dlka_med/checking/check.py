"""Run all rules over a dataset."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dlka_med.checking.findings import SEVERITIES, Finding, is_clean, lines, verdict
from dlka_med.checking.rules import apply
from dlka_med.checking.summary import summary, table
from dlka_med.checking.survey import Survey
from dlka_med.config.labels import Declared
from dlka_med.data.cases import read_dataset
from dlka_med.data.description import read_description
from dlka_med.data.fingerprint import fingerprint
from dlka_med.data.refusals import Refusals
from dlka_med.files import whole_file
from dlka_med.progress import progress


@dataclass(frozen=True)
class Report:
    """What a check found, the worst first."""

    survey: Survey
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is worse than a note."""
        return is_clean(self.findings)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Cases, spacings, sizes, channels and labels."""
        return summary(self.survey)

    def describe(self) -> str:
        """Findings, the table and the verdict, in lines."""
        parts = [*lines(self.findings), table(self.summary), f"{self.survey.dataset.root}: {verdict(self.findings)}"]
        return "\n".join(parts) + "\n"

    def to_json(self) -> dict[str, Any]:
        """All findings and the summary."""
        counts = {severity: sum(one.severity == severity for one in self.findings) for severity in SEVERITIES}
        return {
            "dataset": str(self.survey.dataset.root),
            "counts": counts,
            "findings": [finding.to_json() for finding in self.findings],
            "summary": self.summary,
        }

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")


def check_dataset(
    root: str | Path,
    *,
    channels: Sequence[str] | None = None,
    labels: Declared | None = None,
    groups: str | Path | None = None,
    folds: int = 5,
    spacing: Sequence[float | None] | None = None,
    workers: int | None = None,
) -> Report:
    """Look at every case of a dataset by itself and beside the others.

    Args:
        channels, labels, groups: as in `read_dataset`.
        folds: of the cross-validation that is meant.
        spacing: mm per voxel that is planned, along R, A and S; None: the median of the cases.
        workers: processes, each with one case in memory; None: one per core.

    Raises:
        InputError: the folder is of no known layout, its `dataset.json` contradicts itself, or it has no case.
    """
    root, refusals = Path(root), Refusals()
    table = root / "groups.csv" if groups is None else Path(groups)
    dataset = read_dataset(root, channels=channels, labels=labels, groups=groups, refusals=refusals)
    facts = fingerprint((*dataset.cases, *dataset.test), dataset.channels, workers, progress("checking"))
    survey = Survey(
        dataset=dataset,
        description=read_description(root / "dataset.json"),
        facts=facts,
        refusals=tuple(refusals),
        groups=table if groups is not None or os.path.exists(table) else None,
        folds=folds,
        spacing=None if spacing is None else tuple(spacing),
    )
    return Report(survey, apply(survey))
