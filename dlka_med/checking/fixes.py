"""What `--fix` did: the record and its table."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

LEFT_OUT = "left out"
TWINS = {"duplicate-cases", "duplicate-in-test", "duplicate-across-groups", "duplicate-labels-differ", "group-in-test"}
"""Codes of which a case is left out only if the copy has the other one."""
SPARED = TWINS - {"duplicate-labels-differ"} | {"file-unlisted"}
"""Codes of which something is left out without a loss."""
LISTED = 10


@dataclass(frozen=True)
class Fix:
    """One line of `fixes.csv`; `done` begins with "left out" if the case or file is not in the copy."""

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
    """What became of a dataset in its copy, and how many cases that has."""

    out: Path
    fixes: tuple[Fix, ...]
    cases: int

    @property
    def left_out(self) -> tuple[Fix, ...]:
        return tuple(fix for fix in self.fixes if fix.is_loss)

    def describe(self) -> str:
        """What is missing, and how much was done, in lines."""
        losses = [f"{fix.file}: {fix.code}, {fix.done}" for fix in self.left_out]
        more = [f"... and {len(losses) - LISTED} more"] if len(losses) > LISTED else []
        mended = len(self.fixes) - len(losses)
        end = f"{self.out}: {self.cases} cases, {mended} changes, {len(losses)} left out; fixes.csv lists them"
        return "\n".join([*losses[:LISTED], *more, end]) + "\n"


def write_fixes(path: Path, fixes: Iterable[Fix]) -> None:
    write_table(path, [[field.name for field in fields(Fix)], *map(astuple, fixes)])


def write_table(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
